"""What the playground sends, as the objects that steer and sample."""

import shlex
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field

from ...sae.common.errors import InputError
from ...steering.config import Sampling
from ...steering.interventions.intervention import Intervention
from ...steering.texts import chat_tokens, prompt_tokens
from .session import Session

MOST_CHARACTERS = 20_000
"""Of a prompt, an instruction or a text."""

MOST_TEMPERATURE = 2
"""As at OpenAI's endpoint."""

Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]


def require_temperature(temperature: float) -> None:
    """Raise InputError for one that the endpoint does not take."""
    if temperature > MOST_TEMPERATURE:
        raise InputError(
            f"temperature is {temperature:g}; give one from 0 to {MOST_TEMPERATURE}",
            field="temperature",
        )


class Chosen(BaseModel):
    """How tokens are chosen, as the endpoint names it."""

    model_config = ConfigDict(extra="forbid")
    max_tokens: int = 60
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def sampling(self, limit: int) -> Sampling:
        """The settings that generate; of the fields that temperature 0 leaves without an effect
        the defaults. Raises InputError for a value out of range, or more tokens than the limit."""
        require_few_tokens(self.max_tokens, limit)
        require_temperature(self.temperature)
        return Sampling(
            max_new_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p if self.temperature else 1.0,
            seed=self.seed,
        )


class Message(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(extra="forbid")
    role: Annotated[str, Field(pattern="^(system|user|assistant)$")]
    content: Text


class Beginning(BaseModel):
    """What is continued: a text, or a chat."""

    prompt: Text = ""
    messages: Annotated[list[Message], Field(max_length=200)] = []

    def tokens(self, session: Session) -> list[int]:
        """Its token ids, BOS included.

        Raises:
            InputError: it has no token, more than the server reads or the model holds, or the model
                has no chat template.
        """
        model = session.loaded.model
        if self.messages:
            found = chat_tokens(model, [message.model_dump() for message in self.messages])
        else:
            found = prompt_tokens(model, self.prompt)
        require_short_prompt(session, len(found))
        return found


def require_few_tokens(max_tokens: int, limit: int) -> None:
    """Raise InputError for more new tokens than the server writes."""
    if max_tokens > limit:
        raise InputError(
            f"max_tokens is {max_tokens}, and this server writes at most {limit}; lower it, or "
            "start the server with a larger --token-limit",
            field="max_tokens",
        )


def require_short_prompt(session: Session, n_tokens: int) -> None:
    """Raise InputError for a prompt of more tokens than the server reads."""
    most = session.config.prompt_limit
    if n_tokens > most:
        raise InputError(
            f"the prompt has {n_tokens} tokens, and this server reads at most {most}; shorten "
            "it, or start the server with a larger --prompt-limit",
            field="prompt",
        )


def intervention_of(session: Session, steering: dict[str, Any]) -> Intervention:
    """The intervention of a request: of what it leaves out the site is the autoencoder's, and a
    feature's largest activation that of the index.

    Raises:
        InputError: it is no intervention, a feature of it never fires, or it has vectors, which are
            no part of JSON.
    """
    if "edits" not in steering:
        if not isinstance(steering.get("features"), list):
            raise InputError("steering needs a list of features; add one")
        return Intervention.from_dict(_completed(session, steering, with_site=True), "steering")
    full = dict(steering)
    if isinstance(edits := full["edits"], list):
        parts = cast(list[object], edits)
        full["edits"] = [_completed(session, each, with_site=True) for each in parts]
    if "gate" in full:
        full["gate"] = _completed(session, full["gate"])
    found = Intervention.from_dict(full, "steering")
    if found.vectors:
        raise InputError(
            f"steering names vectors ({', '.join(found.vectors)}), which a request cannot bring; "
            "steer with features here, or with generate --intervention FOLDER"
        )
    return found


def _completed(session: Session, part: object, *, with_site: bool = False) -> Any:
    """A part of an intervention with what it may leave out; what is none is left to be refused."""
    if not isinstance(part, dict):
        return part
    values = dict(cast(dict[str, Any], part))
    if with_site:
        values = {"site": session.site, **values}
    if isinstance(features := values.get("features"), list):
        values["features"] = [_with_unit(session, each) for each in cast(list[object], features)]
    if "gate" in values:
        values["gate"] = _completed(session, values["gate"])
    return values


def _with_unit(session: Session, feature: object) -> object:
    """A feature with its largest activation; what is no feature is left to be refused."""
    if not isinstance(feature, dict) or "max_activation" in feature:
        return cast(object, feature)
    values = cast(dict[str, object], feature)
    number = values.get("index")
    if not isinstance(number, int) or isinstance(number, bool):
        raise InputError(f"a feature's index is {number!r}; give its number")
    return {**values, "max_activation": session.index.max_activation(number)}


def command_line(
    session: Session, chosen: Chosen, prompt: str, *, chat: bool, file: str = "intervention.json"
) -> str:
    """The command that writes the same base and steered texts in a terminal."""
    config = session.config
    words = ["sparsteer", "generate", str(session.run), "--intervention", file, "--prompt", prompt]
    for name, value in (("--model", config.model), ("--model-dtype", config.model_dtype)):
        words += [] if value is None else [name, value]
    words += ["--allow-other-weights"] if config.allow_other_weights else []
    words += ["--max-new-tokens", str(chosen.max_tokens), "--seed", str(chosen.seed)]
    if chosen.temperature:
        words += ["--temperature", f"{chosen.temperature:g}", "--top-p", f"{chosen.top_p:g}"]
    return shlex.join([*words, "--chat"] if chat else words)
