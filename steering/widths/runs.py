"""The dictionaries that are compared: which runs there are, and that they belong together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.reloading import require_same_weights
from ...training.run_places import short_names
from ..features.build import build_index
from ..features.config import BuildConfig
from ..features.index import has_index
from ..features.shared_directions import require_same_site
from .config import WidthsConfig

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class WidthsRun:
    """One of the dictionaries."""

    name: str
    """A short one, also of its folder among the results."""
    run: str
    sae: SparseAutoencoder

    @property
    def n_latents(self) -> int:
        """The dictionary's width."""
        return self.sae.config.n_latents


def opened_runs(config: WidthsConfig) -> list[WidthsRun]:
    """The runs that are named, the narrowest dictionary first; of equal ones as they are named.

    Raises:
        InputError: a run is not there, two are the same, or dictionaries are of other sites.
    """
    folders = [run for given in config.runs for run in _runs_in(given)]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise InputError(f"runs names {twice} more than once; name it once", field="runs")
    names = [name.strip("/").replace("/", "-") for name in short_names(list(map(Path, folders)))]
    found = [
        WidthsRun(name, folder, SparseAutoencoder.load(folder))
        for name, folder in zip(names, folders, strict=True)
    ]
    for other in found[1:]:
        require_same_site(found[0].sae, found[0].run, other.sae, other.run)
    return sorted(found, key=lambda run: run.n_latents)


def require_model(
    run: WidthsRun, model: LanguageModel, *, allow_other_weights: bool, say: Say
) -> None:
    """Raise an InputError if the run's autoencoder was trained on a model with other weights."""
    if run.sae.origin is not None:
        require_same_weights(
            model,
            run.sae.origin,
            f"the autoencoder of {run.run}",
            allow_other_weights=allow_other_weights,
            say=say,
        )


def require_indexes(
    runs: Sequence[WidthsRun], config: WidthsConfig, model: LanguageModel, say: Say
) -> None:
    """Build the feature index of each run that has none.

    Raises:
        InputError: one is missing, and there is no cache to build it from.
    """
    missing = [run for run in runs if not has_index(run.run)]
    if missing and config.cache is None:
        raise InputError(
            f"{missing[0].run} has no feature index, which knows how active latents are; give "
            "--cache DIR, or run sparsteer features build",
            field="cache",
        )
    for run in missing:
        say(f"building the feature index of {run.run}")
        build = BuildConfig(
            run=run.run,
            cache=str(config.cache),
            device=config.device,
            allow_other_weights=config.allow_other_weights,
        )
        build_index(build, model=model, say=say)


def _runs_in(given: str) -> list[str]:
    """The runs in a folder that holds several, else what is given."""
    folder = Path(given)
    if not folder.is_dir() or _has_autoencoder(folder):
        return [given]
    inside = [str(each) for each in sorted(folder.iterdir()) if _has_autoencoder(each)]
    return inside or [given]


def _has_autoencoder(folder: Path) -> bool:
    return (folder / "sae" / "config.json").is_file() or (folder / "config.json").is_file()
