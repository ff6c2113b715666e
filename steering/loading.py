"""A run's autoencoder together with the language model and site that it was trained on."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError
from ..sae.compatibility import require_fits
from ..sae.config import ModelDtype
from ..sae.language_model.model import LanguageModel
from ..sae.language_model.reloading import load_again
from ..sae.language_model.sites import Site
from .interventions.intervention import Intervention


class LoadedRun(NamedTuple):
    """What belongs together to read, steer or score texts."""

    model: LanguageModel
    site: Site
    sae: SparseAutoencoder


@runtime_checkable
class RunSettings(Protocol):
    """The settings of a verb that say which run to load, and how."""

    @property
    def run(self) -> str: ...
    @property
    def model(self) -> str | None: ...
    @property
    def site(self) -> str | None: ...
    @property
    def model_dtype(self) -> ModelDtype | None: ...
    @property
    def allow_other_weights(self) -> bool: ...
    @property
    def device(self) -> str: ...


def load_run_of(config: RunSettings, say: Callable[[str], None]) -> LoadedRun:
    """The run that a verb's settings name, as `load_run` loads it."""
    return load_run(
        config.run,
        model=config.model,
        site=config.site,
        model_dtype=config.model_dtype,
        allow_other_weights=config.allow_other_weights,
        device=config.device,
        say=say,
    )


def load_run(
    run: str,
    *,
    model: str | None = None,
    site: str | None = None,
    model_dtype: ModelDtype | None = None,
    allow_other_weights: bool = False,
    device: str = "auto",
    device_map: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> LoadedRun:
    """Load the autoencoder of a run folder (or an autoencoder's folder), its model and its site.

    Args:
        run: the folder.
        model: language model; by default the one the autoencoder names as its origin.
        model_dtype: in which the model runs; by default as when the activations were read that the
            autoencoder was trained on.
        site: site in it; by default the one it was trained on.
        allow_other_weights: take a language model with other weights than the one the autoencoder
            was trained on, too, and say it.
        device: auto, cpu, cuda or cuda:N, for both.
        device_map: places the model in place of the device, as for `LanguageModel.load`; the
            autoencoder is then where it takes its tokens.
        say: told what takes time.

    Raises:
        InputError: something is missing, or the language model has other weights than the one the
            autoencoder was trained on, or another width.
    """
    sae = SparseAutoencoder.load(run)
    origin = sae.origin
    if origin is None and (model is None or site is None):
        raise InputError(
            f"{run} does not say which model and site it was trained on; give --model and --site"
        )
    of = f"the autoencoder of {run}"
    if origin is None:
        language_model = LanguageModel.load(
            model or "",
            device=device,
            dtype=model_dtype or "float32",
            device_map=device_map,
            progress=say,
        )
    else:
        language_model = load_again(
            origin,
            of,
            given=model,
            device=device,
            dtype=model_dtype,
            device_map=device_map,
            allow_other_weights=allow_other_weights,
            say=say,
        )
    place = language_model.site(site or (origin.site if origin else None))
    require_fits(sae, of=of, site=place)
    return LoadedRun(language_model, place, sae.to(language_model.device))


def load_for_intervention(
    intervention: Intervention,
    where: str,
    *,
    run: str | None,
    model: str | None,
    model_dtype: ModelDtype | None = None,
    allow_other_weights: bool = False,
    device: str = "auto",
    device_map: str | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    remedy: str = "give the folder of its run with --run",
) -> tuple[LanguageModel, SparseAutoencoder | None]:
    """Load what an intervention steers: the language model, and the autoencoder of the run if one
    is named.

    Args:
        intervention: how it is steered.
        where: the intervention's file or folder, for an error.
        run: the run folder of its features, or None.
        model: the language model, which must be named where there is no run.
        model_dtype, allow_other_weights, device, device_map, say: as for `load_run`; without a run
            the model runs in float32 by default.
        remedy: how a run is named, for an error.

    Raises:
        InputError: the intervention has features, and no run is named; neither is named; or as
            `load_run`.
    """
    if run is not None:
        loaded = load_run(
            run,
            model=model,
            site=intervention.site,
            model_dtype=model_dtype,
            allow_other_weights=allow_other_weights,
            device=device,
            device_map=device_map,
            say=say,
        )
        return loaded.model, loaded.sae
    if intervention.needs_autoencoder:
        raise InputError(
            f"{where} steers with features, which are an autoencoder's; {remedy}",
            field="run",
        )
    if model is None:
        raise InputError("model is missing; name the language model", field="model")
    language_model = LanguageModel.load(
        model,
        device=device,
        dtype=model_dtype or "float32",
        device_map=device_map,
        progress=say,
    )
    return language_model, None
