"""An intervention written for another tool, into a folder that appears whole or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.checksums import write_checked_json, write_sums
from ...sae.fingerprint import sae_fingerprint
from ...sae.interop.export import export_folder
from ...sae.language_model.model import LanguageModel
from ..config import SteeringChoice, require_features, require_nothing_beside_intervention
from ..fitting.saving import require_fitted_to
from ..interventions.intervention import Intervention
from ..interventions.steering import steer
from ..loading import load_run
from ..registries import STEERING_FORMATS
from ..side_by_side import steered_features
from .formats import ConstantSteering, require_constant

RECORD = "steering.json"
"""What every export has: the intervention, and what it was made with."""


class ExportedSteering(NamedTuple):
    """What was written."""

    record: dict[str, Any]
    """What `steering.json` says."""
    usage: list[str]
    """Sentences that say how the other tool takes it."""


def export_steering(
    run: str,
    out: str | Path,
    format: str,
    choice: SteeringChoice,
    *,
    force: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> ExportedSteering:
    """Write what `sparsteer generate` would add, by the same settings, for another tool.

    Args:
        run: run folder with the autoencoder and its feature index, or the folder of an autoencoder.
        out: the folder, not there yet or empty, or with this very export.
        format: a name in `STEERING_FORMATS`: lm-eval, gguf, easysteer, hotwire, transformers.
        choice: which features are steered, how far and where, or an intervention.
        force: whether another export of steering that is at `out` is replaced.
        say: told what takes time.

    Raises:
        InputError: no such run, feature, picks, site or format, the format cannot hold such an
            intervention, or the folder has other content.
    """
    STEERING_FORMATS.require(format)
    if choice.intervention is not None:
        return _export_file(run, out, format, choice, force=force, say=say)
    require_constant(choice.tier)
    require_features(choice.feature, choice.picks, other=" or --intervention FILE")
    features = steered_features(run, choice, SparseAutoencoder.load(run), say)
    model, site, sae = load_run(
        run,
        model=choice.model,
        site=choice.site,
        model_dtype=choice.model_dtype,
        allow_other_weights=choice.allow_other_weights,
        device=choice.device,
        say=say,
    )
    intervention = Intervention.of_features(
        site=site.name,
        features=features,
        tier=choice.tier,
        direction=choice.direction,
        seed=0 if choice.direction == "decoder" else choice.seed,
    )
    return export_intervention(model, sae, intervention, out, format, force=force)


def _export_file(
    run: str,
    out: str | Path,
    format: str,
    choice: SteeringChoice,
    *,
    force: bool,
    say: Callable[[str], None],
) -> ExportedSteering:
    """Export an intervention that was written before, on the run's language model."""
    require_nothing_beside_intervention(choice)
    assert choice.intervention is not None
    given = Intervention.load(choice.intervention)
    model, _, sae = load_run(
        run,
        model=choice.model,
        site=given.site,
        model_dtype=choice.model_dtype,
        allow_other_weights=choice.allow_other_weights,
        device=choice.device,
        say=say,
    )
    if not choice.allow_other_weights:
        require_fitted_to(choice.intervention, model)
    own = sae if given.needs_autoencoder else None
    return export_intervention(model, own, given, out, format, force=force)


def export_intervention(
    model: LanguageModel,
    sae: SparseAutoencoder | None,
    intervention: Intervention,
    out: str | Path,
    format: str,
    *,
    force: bool = False,
) -> ExportedSteering:
    """Write an intervention of the tier `constant` for another tool.

    The vector is the one that `steer` adds, in the units of the model's own activations.

    Args:
        model: the language model.
        sae: the autoencoder whose latents the features are; None where there are none.
        intervention: what is steered; it must be the same at every token.
        out: the folder, not there yet or empty, or with this very export.
        format: a name in `STEERING_FORMATS`.
        force: whether another export of steering that is at `out` is replaced.

    Raises:
        InputError: the format cannot hold the intervention, the model has no such site, the
            autoencoder no such feature, or the folder has other content.
    """
    chosen, out = STEERING_FORMATS.get(format), Path(out)
    steer(model, sae, intervention)  # checks that the autoencoder fits, and changes nothing
    steering = ConstantSteering(model, sae, intervention)
    record = {
        "format": format,
        "model": model.source,
        "site": intervention.site,
        "after_block": steering.layer,
        "blocks": model.n_layers,
        "norm": float(steering.vector_D.square().sum().sqrt()),
        "intervention": intervention.to_dict(),
        "autoencoder": None if sae is None else sae_fingerprint(sae),
    }
    with export_folder(out, force=force, marker=RECORD) as folder:
        usage = chosen.write(steering, folder, out)
        write_checked_json(folder / RECORD, record)
        write_sums(folder)
    return ExportedSteering(record, usage)
