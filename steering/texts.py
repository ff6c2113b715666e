"""Prompts to the tokens that a model continues, and what it adds to them back to text."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..sae.common.errors import InputError
from ..sae.language_model.model import LanguageModel
from .encoding import first_tokens, only_characters


def prompt_tokens(model: LanguageModel, prompt: str, *, chat: bool = False) -> list[int]:
    """The prompt's token ids after the model's BOS token, or in its chat template.

    Half of a surrogate pair, which is no character, is read as a question mark.

    Raises:
        InputError: the prompt has no token, one without an embedding, or more than the model's
            context, or the model has no chat template.
    """
    if chat:
        return chat_tokens(model, [{"role": "user", "content": prompt}])
    tokens = [] if model.bos_id is None else [model.bos_id]
    return _fitting(model, prompt, prompt, tokens)


def chat_tokens(model: LanguageModel, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The token ids of a chat in the model's template, up to where its answer begins.

    Args:
        model: the language model.
        messages: each with `role` and `content`, in their order.

    Raises:
        InputError: the model has no chat template, it refuses these messages, or they are longer
            than the model's context.
    """
    tokenizer = cast(Any, model.tokenizer)
    if not tokenizer.chat_template:
        raise InputError(
            f"{model.name} has no chat template; leave --chat out and continue a plain text"
        )
    whole = [{**each, "content": only_characters(each["content"])} for each in messages]
    try:
        text: str = tokenizer.apply_chat_template(whole, add_generation_prompt=True, tokenize=False)
    # Templates are programs: their own refusals, those of the sandbox, and any mistake in them.
    except Exception as error:
        raise InputError(
            f"the chat template of {model.name} fails ({error}); mend it, or leave --chat out and "
            "continue a plain text"
        ) from None
    return _fitting(model, text, messages[-1]["content"] if messages else "", [])


def has_chat_template(model: LanguageModel) -> bool:
    """Whether messages can be put to the model as its tokenizer writes them."""
    return bool(cast(Any, model.tokenizer).chat_template)


def _fitting(model: LanguageModel, text: str, prompt: str, tokens: list[int]) -> list[int]:
    """The tokens and those of the text, which must fit; errors name the prompt."""
    ids, n_tokens = first_tokens(model, text, model.max_context)
    if len(tokens) + n_tokens > model.max_context:
        raise InputError(
            f"the prompt {_beginning(prompt)} has {len(tokens) + n_tokens:,} tokens, more than the "
            f"{model.max_context:,} that {model.name} can hold; shorten it"
        )
    if not tokens + ids:
        raise InputError(f"the prompt {prompt!r} has no token; give at least a word")
    return tokens + ids


def _beginning(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 40 else f"{prompt[:37]}...")


def continuation_text(model: LanguageModel, prompt: Sequence[int], generated: Sequence[int]) -> str:
    """The text that generated tokens add to a prompt's, up to the last whole character.

    Decoding the two together keeps the space between them, which some tokenizers drop at the start
    of a text.
    """
    return _added(model, prompt, generated, skip_special_tokens=True).rstrip("\ufffd")


def text_before_stop(
    model: LanguageModel, prompt: Sequence[int], generated: Sequence[int], stop: Sequence[str]
) -> str | None:
    """The text that generated tokens add to a prompt's, up to the first stop string; None if there
    is none in it. A stop string may hold special tokens, which the text leaves out."""
    spelled = _added(model, prompt, generated, skip_special_tokens=False)
    starts = [spelled.find(string) for string in stop if string in spelled]
    if not starts:
        return None
    n_whole = next(
        n
        for n in range(len(generated), -1, -1)
        if len(_added(model, prompt, generated[:n], skip_special_tokens=False)) <= min(starts)
    )
    whole = _added(model, prompt, generated[:n_whole], skip_special_tokens=False)
    kept = continuation_text(model, prompt, generated[:n_whole])
    return kept + spelled[len(whole) : min(starts)]


def _added(
    model: LanguageModel,
    prompt: Sequence[int],
    generated: Sequence[int],
    *,
    skip_special_tokens: bool,
) -> str:
    """What decoding gives for the generated tokens behind the prompt's."""
    decode = cast(Any, model.tokenizer).decode
    options = {
        "skip_special_tokens": skip_special_tokens,
        "clean_up_tokenization_spaces": False,
    }
    before: str = decode(list(prompt), **options)
    both: str = decode([*prompt, *generated], **options)
    return both[len(before) :]


def left_padded(
    model: LanguageModel, prompts: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Tokens and mask with the padding before each prompt, so that all go on in the same column."""
    width = max(len(prompt) for prompt in prompts)
    tokens_BT = torch.full((len(prompts), width), model.pad_id)
    mask_BT = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, width - len(prompt) :] = torch.tensor(prompt)
        mask_BT[row, width - len(prompt) :] = True
    return tokens_BT, mask_BT
