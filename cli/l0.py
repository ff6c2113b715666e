"""The verb `l0`."""

from typing import Any

from ..sae.common.wording import counted
from ..training.evaluation.perplexity_l0_config import PerplexityL0Config
from .console import Report, Terminal, table

_BASES = {"sae": "with the whole autoencoder", "model": "of the untouched model"}


def run(config: PerplexityL0Config, terminal: Terminal) -> Report:
    """Say how many latents of a row the language model needs, by the perplexity that fewer cost.

    SAE is an autoencoder with a large L0, such as one trained briefly with --k 256: of its latents
    the smallest contributions are left out until perplexity has risen so far.
    """
    from ..training.evaluation.perplexity_l0 import perplexity_l0

    with terminal.progress("measuring", "tokens") as update:
        found = perplexity_l0(
            config, say=terminal.say, progress=lambda done, total: update(done, total, "")
        )
    warnings = () if found["monotone"] else (_NOT_MONOTONE,)
    shown = (
        f"{config.sae} at {found['site']}, over {counted(found['contexts'], 'held-out context')}: "
        f"loss {found['loss']:.4f} nats untouched, {found['loss_with_sae']:.4f} with all "
        f"{found['l0']:.1f} latents of a row",
        table(*(_row(choice) for choice in found["choices"])),
        "an autoencoder trained for that L0 does better than one that is cut down to it; what is "
        "left says what prediction needs, not how well latents can be read",
    )
    return Report(values=found, shown=shown, warnings=warnings)


_NOT_MONOTONE = (
    "fewer latents did not always cost more on these contexts, so that an L0 is but one of several "
    "with its perplexity; give more --contexts"
)


def _row(choice: dict[str, Any]) -> tuple[str, str, str]:
    name = f"+{choice['percent']:g}% {_BASES[choice['of']]}"
    if choice["l0"] is None:
        return name, "none", "all latents together cost more"
    spread = choice["loss_increase_standard_error"]
    error = "" if spread is None else f", ± {spread:.4f}"
    return name, f"L0 {choice['l0']:.1f}", f"loss {choice['loss']:.4f}{error}"
