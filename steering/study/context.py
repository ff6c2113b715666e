"""What the arms of a study are made of: the model, the autoencoder, the texts, fits and picks.

Whatever is fitted or found lies in the study's folder, and is read from there the next time:
`texts/`, `fits/`, `picks.json` and `features.json`.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.checksums import read_checked_json, write_checked_json
from ...sae.common.errors import InputError
from ...sae.common.files import atomic_file
from ...sae.compatibility import require_fits
from ...sae.fingerprint import sae_fingerprint
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from ..errors import NotDefined
from ..features.find_config import group_size
from ..features.found_features import FoundFeature, Search
from ..features.index import FeatureIndex
from ..features.picks import Pick, Picks
from ..features.search import find_features
from ..fitting.config import FitConfig
from ..fitting.fitted import Fitted
from ..fitting.fitting import fit
from ..fitting.saving import load_fitted
from ..interventions.spec import SteeredFeature
from ..loading import LoadedRun, load_run
from ..side_by_side import steered_features
from .config import StudyConfig
from .texts import StudyTexts

Say = Callable[[str], None]
"""Told sentences for a person."""

PICKS = "picks.json"
_FOUND = "features.json"
_TEXTS = "texts"
_FITS = "fits"
_MAX_DENSITY = 0.1
_MAX_COSINE = 0.9
"""Of picks that are found: none fires on more of the rows of the index, and no two are as alike."""


@dataclass(frozen=True)
class _Chosen:
    """Picks as `steered_features` reads them."""

    picks: str | None
    feature: tuple[int, ...] = ()
    strength: float | None = None
    max_activation: float | None = None


class StudyContext:
    """What is loaded once, and what is fitted or found when it is first asked for.

    Attributes:
        config: the settings.
        texts: all texts.
        folder: the study's.
        model: the language model.
        site: where arms steer.
        say: told what takes time.
    """

    def __init__(
        self,
        config: StudyConfig,
        texts: StudyTexts,
        folder: Path,
        *,
        model: LanguageModel | None = None,
        say: Say = lambda sentence: None,
    ) -> None:
        """Load the model, and the autoencoder if there is a run.

        Args:
            config, texts, folder, say: see the attributes.
            model: the language model if it is loaded already, in place of the one that is named.

        Raises:
            InputError: as `load_run`.
        """
        self.config, self.texts, self.folder, self.say = config, texts, folder, say
        self.model, self.site, self._sae = _loaded(config, model, say)

    @property
    def sae(self) -> SparseAutoencoder | None:
        """The autoencoder; None without a run."""
        return self._sae

    @cached_property
    def index(self) -> FeatureIndex:
        """The feature index of the run.

        Raises:
            InputError: there is no run, or it has none.
        """
        return FeatureIndex(self._run, sae=sae_fingerprint(self._autoencoder))

    @property
    def _run(self) -> str:
        if self.config.run is None:
            raise InputError(
                "run is missing, and features are an autoencoder's; give RUN, or other --methods",
                field="run",
            )
        return self.config.run

    @property
    def _autoencoder(self) -> SparseAutoencoder:
        assert self._run and self._sae is not None  # a run has been loaded
        return self._sae

    def fitted(
        self, method: str, *, folder: str | None = None, swapped: bool = False, **settings: Any
    ) -> Fitted:
        """A fit to the positive and the negative texts, at the study's site.

        Args:
            method: a name of `FIT_METHODS`.
            folder: its name in `fits/`, by default the method's.
            swapped: take the negative texts for the positive ones, as maps do that lead to them.
            settings: of the method, see `FitConfig`.

        Raises:
            InputError: as `fit`, or what lies there was fitted to another model.
        """
        out = self.folder / _FITS / (folder or method)
        if out.exists():
            return load_fitted(out, self.model)
        positive, negative = self._text_file("positive"), self._text_file("negative")
        if swapped:
            positive, negative = negative, positive
        config = FitConfig(
            method=method,
            model=self.model.source,
            out=str(out),
            site=(self.site.name,),
            positive=str(positive),
            negative=str(negative),
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            **settings,
        )
        self.say(f"fitting {folder or method}")
        return fit(config, self.model, say=self.say)

    def features(self) -> tuple[SteeredFeature, ...]:
        """The picks as steered features, each with its own strength.

        Raises:
            InputError: as `steered_features`.
            NotDefined: none is found.
        """
        picks = self.config.picks
        if picks is None:
            _ = self.found  # which writes the picks
            picks = str(self.folder / PICKS)
        return steered_features(self._run, _Chosen(picks), self._autoencoder, self.say)

    def group(self) -> tuple[SteeredFeature, ...]:
        """The group that tells the texts apart, each suppressed in proportion to its weight.

        Raises:
            NotDefined: no latent of the group speaks for the positive texts, or there is no group.
        """
        if self.found["no_group"] is not None:
            raise NotDefined(self.found["no_group"])
        members = [
            one
            for one in self.found["group"]
            if one["weight"] > 0 and self.index.max_activation(one["feature"]) > 0
        ]
        if not members:
            raise NotDefined(
                "no feature of the group is more active in the positive texts; give more texts, or "
                "leave sae_group out"
            )
        most = max(one["weight"] for one in members)
        return tuple(
            SteeredFeature(
                index=one["feature"],
                strength=-one["weight"] / most,
                max_activation=self.index.max_activation(one["feature"]),
            )
            for one in members
        )

    def chosen_latents(self) -> set[int]:
        """The latents that any arm steers with, whether its method is asked for or not, so that
        they stay the same when a method is added."""
        chosen: set[int] = set()
        for steered in (self.features, self.group):
            with suppress(NotDefined):
                chosen |= {feature.index for feature in steered()}
        return chosen

    @property
    def found(self) -> dict[str, Any]:
        """The features that tell the texts apart: `features`, the members of the `group`, and
        `no_group`, why there is none.

        Raises:
            NotDefined: no feature does.
        """
        if not self._found["features"]:
            raise NotDefined(
                "no feature fires in a tenth of the positive texts and on less than "
                f"{_MAX_DENSITY:.0%} of all tokens; give --picks FILE"
            )
        return self._found

    @cached_property
    def _found(self) -> dict[str, Any]:
        """All are looked for at once, whichever methods are asked for, as others may be added."""
        path = self.folder / _FOUND
        if path.exists():
            return read_checked_json(path, "features of the study")
        self.say(f"looking for features in {len(self.texts.positive):,} positive texts")
        no_group: str | None = None
        try:
            search = self._search(group_size(self.config.group))
        except InputError as error:
            if error.field != "group":
                raise
            no_group = str(error)
            search = self._search(None)
        if search.features:
            self._picks_of(search.features).save(self.folder / PICKS)
        group = search.group.features if search.group is not None else ()
        members = [asdict(member) for member in group]
        values = {**search.to_dict(), "group": members, "no_group": no_group}
        write_checked_json(path, values)
        return values

    def _search(self, group: int | None) -> Search:
        return find_features(
            LoadedRun(self.model, self.site, self._autoencoder),
            self.texts.positive,
            self.texts.negative,
            top=self.config.features,
            density_F=torch.tensor(self.index.statistics["density"]),
            min_density=1e-9,  # one that fires nowhere in the index has no unit
            max_density=_MAX_DENSITY,
            max_cosine=_MAX_COSINE,
            group=group,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            say=self.say,
        )

    def _picks_of(self, features: Sequence[FoundFeature]) -> Picks:
        """Each suppressed alike."""
        return Picks(
            sae_fingerprint(self._autoencoder),
            tuple(
                Pick(
                    feature=found.feature,
                    label="more active in the positive texts",
                    note=f"AUROC of the mean activation: {found.auroc_mean:.3f}",
                    strength=-1.0,
                    label_source="machine",
                )
                for found in features
            ),
        )

    def _text_file(self, name: str) -> Path:
        """Texts of the study in a file of their own."""
        path = self.folder / _TEXTS / f"{name}.jsonl"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            texts: tuple[str, ...] = getattr(self.texts, name)
            with atomic_file(path) as temporary:
                lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
                temporary.write_text(lines, encoding="utf-8")
        return path


def _loaded(
    config: StudyConfig, model: LanguageModel | None, say: Say
) -> tuple[LanguageModel, Site, SparseAutoencoder | None]:
    if config.run is None:
        if model is None:
            model = LanguageModel.load(
                config.model or "",
                device=config.device,
                dtype=config.model_dtype or "float32",
                progress=say,
            )
        return model, model.site(config.site), None
    if model is None:
        loaded = load_run(
            config.run,
            model=config.model,
            site=config.site,
            model_dtype=config.model_dtype,
            allow_other_weights=config.allow_other_weights,
            device=config.device,
            say=say,
        )
        return loaded.model, loaded.site, loaded.sae
    sae = SparseAutoencoder.load(config.run)
    site = model.site(config.site or (sae.origin.site if sae.origin else None))
    require_fits(sae, of=f"the autoencoder of {config.run}", site=site)
    return model, site, sae.to(model.device)
