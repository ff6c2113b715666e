"""How many latents a row is to keep, as `--l0` says it: a number, or how to find one; imports no
torch."""

import dataclasses
import re
from dataclasses import dataclass

from ..sae.common.errors import InputError
from ..sae.config import config_class
from .config import TrainConfig
from .distributed.torchrun import under_torchrun

COSINE = "cosine"
_PERPLEXITY = re.compile(r"ppl:(?P<percent>\d+(\.\d+)?|\.\d+)%?")


@dataclass(frozen=True)
class L0Rule:
    """A wanted L0, or what finds one; exactly one of the three is set."""

    number: int | None = None
    """The L0 itself."""
    percent: float | None = None
    """By how much fewer latents may raise perplexity."""
    cosine: bool = False
    """The L0 of the dictionary whose decoder rows overlap least."""

    @property
    def measures(self) -> bool:
        """Whether autoencoders must be trained to find it."""
        return self.number is None

    def __str__(self) -> str:
        if self.percent is not None:
            return f"ppl:{self.percent:g}%"
        return COSINE if self.cosine else str(self.number)


def parse_l0(words: str) -> L0Rule:
    """The rule that words such as `64`, `ppl:1%` or `cosine` name.

    Raises InputError if they name none.
    """
    if words == COSINE:
        return L0Rule(cosine=True)
    if words.isdecimal() and int(words) > 0:
        return L0Rule(number=int(words))
    found = _PERPLEXITY.fullmatch(words)
    percent = float(found["percent"]) if found else 0.0
    if not 0 < percent <= 1000:
        raise InputError(
            f"l0 is {words!r}; give a number of latents such as 64, ppl:1% for what perplexity "
            "allows, or cosine",
            field="l0",
        )
    return L0Rule(percent=percent)


def require_l0_for(config: TrainConfig, rule: L0Rule) -> None:
    """Raise an InputError unless the rule suits the configuration."""
    given = {"k": config.k, "target_l0": config.trainer.target_l0}
    if (
        name := next((name for name, value in given.items() if value is not None), None)
    ) is not None:
        raise InputError(
            f"l0 is {rule}, and {name} is {given[name]}; leave one of them out", field="l0"
        )
    if not setting_of_l0(config):
        raise InputError(
            f"l0 is {rule}, but the activation {config.activation} has neither k nor a target L0; "
            "leave it out",
            field="l0",
        )
    if not rule.measures:
        return
    if config.cache is None:
        raise InputError(
            f"l0 is {rule}, which is measured on the held-out part of a cache; give --cache, or a "
            "number",
            field="l0",
        )
    if config.finetune is not None or config.target_site is not None:
        other = "finetune" if config.finetune is not None else "target_site"
        raise InputError(
            f"l0 is {rule}, which looks at autoencoders that begin anew; leave {other} out, or "
            "give a number",
            field="l0",
        )
    if under_torchrun():
        raise InputError(
            f"l0 is {rule}, which is found in one process; find it without torchrun, then give "
            "the number",
            field="l0",
        )


def setting_of_l0(config: TrainConfig) -> str | None:
    """The name of the setting that the L0 becomes."""
    chosen = config_class(config.activation)
    if "k" in {field.name for field in dataclasses.fields(chosen)}:
        return "k"
    return "target_l0" if "target_l0" in chosen.training_settings else None


def with_number(config: TrainConfig, l0: int) -> TrainConfig:
    """The configuration with an L0, as its k or as its target L0."""
    if setting_of_l0(config) == "k":
        return dataclasses.replace(config, k=l0)
    trainer = dataclasses.replace(config.trainer, target_l0=l0)
    return dataclasses.replace(config, trainer=trainer)
