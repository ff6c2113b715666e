"""Turns of a chat as the text that a language model was taught to read them in."""

from typing import Any, cast

from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from .row_files.chat_rows import ChatText, Turns


def require_chat_template(model: LanguageModel) -> None:
    """Raise an InputError if the model has no chat template."""
    if not cast(Any, model.tokenizer).chat_template:
        raise InputError(
            f"chat is on, but {model.name} has no chat template; leave it out to read the turns as "
            "plain text, or take a model that was tuned on chats",
            field="chat",
        )


def written_text(model: LanguageModel, text: str) -> str:
    """A document's text as the model reads it: turns in its chat template, other text as it is.

    Raises InputError if the model has no chat template, or its template refuses the turns.
    """
    return in_chat_template(model, text.turns) if isinstance(text, ChatText) else text


def in_chat_template(model: LanguageModel, turns: Turns) -> str:
    """The turns in the model's chat template, with no turn begun behind the last.

    A BOS token that the template puts first, and nowhere else, is left out: each context gets one.

    Raises InputError if the model has no chat template, or its template refuses the turns.
    """
    require_chat_template(model)
    tokenizer = cast(Any, model.tokenizer)
    try:
        text: str = tokenizer.apply_chat_template(list(turns), tokenize=False)
    # Templates are programs: their own refusals, those of the sandbox, and any mistake in them.
    except Exception as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise InputError(
            f"the chat template of {model.name} refuses a row with the turns {roles} ({error}); "
            "mend the row, or leave chat out",
            field="chat",
        ) from None
    bos: str | None = tokenizer.bos_token
    if model.bos_id is not None and bos and text.startswith(bos) and text.count(bos) == 1:
        return text[len(bos) :]
    return text
