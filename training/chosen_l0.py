"""An L0 that is found before training: by the perplexity that fewer latents cost, or by how little
decoder rows overlap."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.checksums import read_checked_json, write_checked_json
from ..sae.common.wording import counted
from ..sae.fingerprint import sae_fingerprint
from .config import TrainConfig
from .data.cache.reader import ActivationCache
from .evaluation.evaluation import mean_absolute_cosine
from .evaluation.perplexity_l0 import perplexity_l0
from .evaluation.perplexity_l0_config import PerplexityL0Config
from .l0_rule import L0Rule, require_l0_for, with_number
from .runtime.stopping import StopRequest
from .train import train_grid
from .trainer_config import TrainerConfig

Say = Callable[[str], None]

MOST_LATENTS = 256
"""L0 of the autoencoder that is cut down, and the largest of those whose overlap is compared."""
_COSINE_L0 = (8, 16, 32, 64, 128, MOST_LATENTS)
_LEAST_TOKENS, _SHARE = 200_000, 0.1
"""A pilot takes this share of the run's tokens, but so many if the run has them."""
RESULT = "l0.json"
"""What was found, beside the pilots."""


def with_l0(
    config: TrainConfig,
    rule: L0Rule,
    *,
    say: Say = lambda sentence: None,
    stop: StopRequest | None = None,
) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration with the L0 that a rule gives, as its k or as its target L0.

    `ppl:P%`, after PPL-p% sparsity (arXiv 2411.02335): a pilot, top-k with 256 latents a row, is
    trained briefly on the same rows; then of each row the smallest contributions are left out until
    perplexity is P percent above that with the whole pilot (`perplexity_l0`). `cosine`: pilots of
    L0 8, 16, ... 256 are trained briefly, and the L0 whose decoder rows have the least mean
    |cosine| is taken (arXiv 2508.16560; `mean_absolute_cosine` tells its limits). Pilots and what
    was measured lie in the folder `OUT-l0`, by which the same call goes on, and ends with the same.

    Args:
        config: what to train, with neither k nor a target L0.
        rule: see `L0Rule`.
        say: sentences for a person.
        stop: as for `train`; looked at while pilots are trained.

    Returns:
        The configuration, and `rule`, `l0`, and of one that measures `measured`, what it was found
        by.

    Raises:
        InputError: k or a target L0 are given, too; the activation has neither; or a rule that
            measures is asked for without a cache, with `finetune`, or in several processes.
    """
    require_l0_for(config, rule)
    if rule.number is not None:
        return with_number(config, rule.number), {"rule": str(rule), "l0": rule.number}
    found = (
        _by_cosine(config, say, stop) if rule.cosine else _by_perplexity(config, rule, say, stop)
    )
    say(f"--l0 {rule}: {found['l0']} latents of a row")
    return with_number(config, found["l0"]), {"rule": str(rule), **found}


def _by_perplexity(
    config: TrainConfig, rule: L0Rule, say: Say, stop: StopRequest | None
) -> dict[str, Any]:
    (pilot,) = _pilots(config, (MOST_LATENTS,), say, stop)

    def measure() -> dict[str, Any]:
        measured = perplexity_l0(
            PerplexityL0Config(
                sae=pilot.out,
                cache=config.cache or "",
                site=config.site,
                percent=(rule.percent or 0.0,),
                device=config.trainer.device,
            ),
            say=say,
        )
        (choice,) = (choice for choice in measured["choices"] if choice["of"] == "sae")
        return {"l0": max(1, round(choice["l0"])), "measured": measured}

    return _kept(config, rule, [pilot], measure)


def _by_cosine(config: TrainConfig, say: Say, stop: StopRequest | None) -> dict[str, Any]:
    pilots = _pilots(config, _COSINE_L0, say, stop)

    def measure() -> dict[str, Any]:
        overlaps = {
            str(pilot.k): mean_absolute_cosine(SparseAutoencoder.load(pilot.out).W_dec.detach())
            for pilot in pilots
        }
        return {"l0": int(min(overlaps, key=overlaps.__getitem__)), "measured": overlaps}

    found = _kept(config, L0Rule(cosine=True), pilots, measure)
    if found["l0"] in (pilots[0].k, pilots[-1].k):
        say(
            f"warning: decoder rows overlap least at an L0 of {found['l0']}, at the end of what "
            "was tried, so that this says little"
        )
    return found


def _pilots(
    config: TrainConfig, l0s: tuple[int, ...], say: Say, stop: StopRequest | None
) -> list[TrainConfig]:
    """Top-k autoencoders of the run's width, trained briefly on its rows; what is trained already
    is not trained again. Of the L0s those up to a quarter of the latents, or that quarter."""
    n_latents = config.latents_at(ActivationCache(config.cache or "").d_model)
    most = max(1, n_latents // 4)
    given = config.trainer
    trainer = TrainerConfig(
        tokens=min(given.tokens, max(_LEAST_TOKENS, round(_SHARE * given.tokens))),
        precision=given.precision,
        seed=given.seed,
        data_seed=given.data_seed,
        device=given.device,
    )
    pilots = [
        TrainConfig(
            cache=config.cache,
            site=config.site,
            out=str(_folder(config) / f"k{k}"),
            n_latents=n_latents,
            k=k,
            trainer=trainer,
        )
        for k in dict.fromkeys(min(l0, most) for l0 in l0s)
    ]
    say(f"finding an L0 by {counted(len(pilots), 'pilot')} in {_folder(config)}")
    train_grid(pilots, say=say, stop=stop)
    return pilots


def _kept(
    config: TrainConfig,
    rule: L0Rule,
    pilots: list[TrainConfig],
    measure: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """What was measured before on the same pilots; else it is measured, and kept."""
    file = _folder(config) / RESULT
    key = {
        "rule": str(rule),
        "pilots": [sae_fingerprint(SparseAutoencoder.load(pilot.out)) for pilot in pilots],
        "cache": ActivationCache(config.cache or "").fingerprint,
    }
    if file.exists():
        kept = read_checked_json(file, "L0 that was found", remedy="remove it")
        if kept.get("key") == key:
            return kept["found"]
    found = measure()
    write_checked_json(file, {"key": key, "found": found})
    return found


def _folder(config: TrainConfig) -> Path:
    return Path(f"{config.out}-l0")
