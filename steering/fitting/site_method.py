"""Methods that look at one site at a time: read the texts, choose the site, fit, and measure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...kernels.numerics import at_least_float32
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from ..features.text_lists import read_text_list
from ..interventions.intervention import Intervention
from ..interventions.spec import Cap, Edit, Gate
from ..interventions.vectors import Vectors
from .capture import sites_in_order
from .config import FitConfig, Pool
from .examples import Examples, unit
from .fitted import FitReport, Fitted
from .method import Say
from .neutral import mean_opening, with_neutral
from .reading import ReadExamples, read_examples
from .saving import require_fitted_to
from .separation import separation
from .site_choice import best_site, compared_sites, finite
from .site_fit import SiteFit, SiteFunction
from .sources import Source, SourceKind


@dataclass(frozen=True, kw_only=True)
class SiteMethod:
    """A method that looks at one site at a time; of several it takes the best.

    Its function sees the rows of the texts that are not held out.
    """

    name: str
    takes: tuple[SourceKind, ...]
    settings: tuple[str, ...] = ()
    pools: tuple[Pool, ...]
    """Poolings that it can be fitted with, its own default first."""
    fit_site: SiteFunction
    at_edits: bool = False
    """Whether it has to read where the edits apply that it is put to."""

    def fit(self, model: LanguageModel, source: Source, config: FitConfig, say: Say) -> Fitted:
        """Read the texts at the sites, choose one, fit there, and measure what was fitted.

        Raises:
            InputError: as `FitMethod.fit`.
        """
        given = _given(model, config)
        sites = _sites(model, config, given, only_first=self.at_edits)
        pool = self.pool_of(config)
        say(f"reading {len(source.texts):,} texts at {', '.join(site.name for site in sites)}")
        read = read_examples(model, sites, source, config, pool)
        details: dict[str, Any] = {"pool": pool}
        chosen = sites[0].name
        if len(sites) > 1:
            compared = compared_sites(read, self.fit_site, config)
            chosen = best_site(compared)
            details["sites"] = [finite(row) for row in compared]
            say(f"{chosen} tells the texts apart best")
        examples = read.by_site[chosen]
        found = self.fit_site(examples.take(~read.is_held_out_N), config)
        details |= dict(found.details) | _excluded(read)
        held_out = examples.take(read.is_held_out_N)
        if found.on_held_out is not None and len(held_out):
            details["held_out"] = dict(found.on_held_out(held_out))
        neutral: list[str] = []
        if config.neutral is not None:
            say("measuring on neutral texts")
            neutral = read_text_list(config.neutral, config.text_field, what="--neutral")
        if neutral and found.gate is not None:
            opening = mean_opening(model, chosen, found.gate, neutral, config, pool)
            details["neutral_opening"] = opening
        report = FitReport(
            method=self.name,
            n_texts=read.n_texts,
            n_tokens=read.n_tokens,
            separation=_separation(found, examples, read),
            details=details,
        )
        fitted = self._fitted(found, chosen, model, config, given, report)
        if given is not None and given.needs_autoencoder:
            return fitted  # Its features are those of an autoencoder that is not at hand.
        return with_neutral(
            fitted, model, neutral, batch_size=config.batch_size, max_length=config.max_length
        )

    def _fitted(
        self,
        found: SiteFit,
        site: str,
        model: LanguageModel,
        config: FitConfig,
        given: Intervention | None,
        report: FitReport,
    ) -> Fitted:
        """What was found, put to what earlier fits gave if there is any."""
        gate, cap = None, None
        if given is not None:
            gate, cap = None if given.gate == Gate() else given.gate, given.cap
        if found.gate is not None and found.gate.kind == "cap":
            vectors = _vectors(found.gate.tensors, model)
            cap = Cap(vectors=vectors, budget=float(found.gate.settings["budget"]), site=site)
        elif found.gate is not None:
            gate = Gate(
                kind=found.gate.kind,
                site=site,
                threshold=found.gate.threshold,
                vectors=_vectors(found.gate.tensors, model),
                settings=found.gate.settings,
            )
        return Fitted(
            method=self.name,
            edits=_edits(found, site, model, config) if given is None else given.edits,
            gate=gate,
            cap=cap,
            positions="all" if given is None else given.positions,
            report=report,
        )

    def pool_of(self, config: FitConfig) -> Pool:
        """The pooling that is asked for, or the method's own.

        Raises:
            InputError: the method cannot be fitted with it.
        """
        asked: Pool | None = config.pool
        if asked is None and config.answer_token is not None:
            asked = "answer"
        if asked is None:
            return self.pools[0]
        if asked not in self.pools:
            raise InputError(
                f"pool is {asked!r}, but {self.name} goes with {', '.join(self.pools)}",
                field="pool",
            )
        return asked


def _given(model: LanguageModel, config: FitConfig) -> Intervention | None:
    """The intervention that a gate is put to, if there is one."""
    if config.edits_of is None:
        return None
    require_fitted_to(config.edits_of, model)
    return Intervention.load(config.edits_of)


def _sites(
    model: LanguageModel, config: FitConfig, given: Intervention | None, *, only_first: bool
) -> list[Site]:
    """Those that are asked for; by default the first at which given edits apply.

    Raises InputError if a gate would be read behind the edits that it is for, which change it, or a
    cap before them.
    """
    if given is None:
        return sites_in_order(model, config.site)
    first = sites_in_order(model, given.sites)[0]
    order = model.site_names.index
    sites = sites_in_order(model, config.site or (first.name,))
    if order(sites[-1].name) > order(first.name):
        raise InputError(
            f"site is {sites[-1].name}, which lies behind {first.name}, where the edits of "
            f"{config.edits_of} begin; give that site, or an earlier one",
            field="site",
        )
    if only_first and [site.name for site in sites] != [first.name]:
        raise InputError(
            f"site is {sites[0].name}, but {config.method} limits the edits of {config.edits_of} "
            f"where they begin, at {first.name}; leave --site out",
            field="site",
        )
    return sites


def _separation(
    found: SiteFit, examples: Examples, read: ReadExamples
) -> Mapping[str, float] | None:
    """Of the held-out rows; scored texts are on the sides that they have among all texts."""
    if found.scores is None:
        return None
    scores_N = found.scores(examples.rows_ND[read.is_held_out_N])
    return separation(scores_N, examples.is_positive_N[read.is_held_out_N])


def _edits(found: SiteFit, site: str, model: LanguageModel, config: FitConfig) -> tuple[Edit, ...]:
    if found.direction_D is None:
        return ()
    name, vector_D = ("v", found.direction_D)
    if config.edit_kind == "project_out":
        name, vector_D = ("u", unit(found.direction_D))
    vectors = _vectors({name: vector_D}, model)
    return (Edit(kind=config.edit_kind, site=site, vectors=vectors),)


def _vectors(tensors: Mapping[str, Tensor], model: LanguageModel) -> Vectors:
    """In float32, or in the model's dtype if that is wider."""
    dtype = at_least_float32(model.dtype)
    return Vectors({name: tensor.to(dtype) for name, tensor in tensors.items()})


def _excluded(read: ReadExamples) -> dict[str, int]:
    counts = {"without_content": read.without_content, "truncated": read.truncated}
    return {name: count for name, count in counts.items() if count}
