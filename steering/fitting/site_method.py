"""Methods that look at one site at a time: read the texts, choose the site, fit, and measure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import at_least_float32
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import Site
from ..features.text_lists import read_text_list
from .capture import sites_in_order
from .config import FitConfig, Pool
from .examples import Examples, unit
from .fitted import FitReport, Fitted, FittedEdit, FittedGate
from .method import Say
from .neutral import change_norms, mean_opening, shift_of
from .reading import ReadExamples, read_examples
from .saving import load_fitted
from .separation import separation
from .site_choice import best_site, compared_sites, finite
from .site_fit import SiteFit, SiteFunction, SiteGate
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

    def fit(self, model: LanguageModel, source: Source, config: FitConfig, say: Say) -> Fitted:
        """Read the texts at the sites, choose one, fit there, and measure what was fitted.

        Raises:
            InputError: as `FitMethod.fit`.
        """
        given = None if config.edits_of is None else load_fitted(config.edits_of, model).edits
        sites = _sites(model, config, given)
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
        edits = _edits(found, chosen, model, config) if given is None else given
        details |= dict(found.details) | _left_out(read)
        held_out = examples.take(read.is_held_out_N)
        if found.on_held_out is not None and len(held_out):
            details["held_out"] = dict(found.on_held_out(held_out))
        neutral = _on_neutral_texts(found, edits, chosen, model, config, pool, say)
        change_norm = neutral.pop("change_norm", None)
        if neutral:
            details["neutral"] = neutral
        report = FitReport(
            method=self.name,
            n_texts=read.n_texts,
            n_tokens=read.n_tokens,
            separation=_separation(found, examples, read),
            neutral_kl=neutral.get("kl_base_steered"),
            change_norm=change_norm,
            details=details,
        )
        gate = None if found.gate is None else _gate(found.gate, chosen, model)
        return Fitted(method=self.name, edits=edits, gate=gate, report=report)

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


def _sites(
    model: LanguageModel, config: FitConfig, edits: tuple[FittedEdit, ...] | None
) -> list[Site]:
    """Those that are asked for; by default the first at which earlier fitted edits apply.

    Raises InputError if a gate would be read behind the edits that it is for, which change it.
    """
    if edits is None:
        return sites_in_order(model, config.site)
    first = sites_in_order(model, [edit.site for edit in edits])[0]
    order = model.site_names.index
    sites = sites_in_order(model, config.site or (first.name,))
    if edits and order(sites[-1].name) > order(first.name):
        raise InputError(
            f"site is {sites[-1].name}, which lies behind {first.name}, where the edits of "
            f"{config.edits_of} begin; give that site, or an earlier one",
            field="site",
        )
    return sites


def _on_neutral_texts(
    found: SiteFit,
    edits: tuple[FittedEdit, ...],
    site: str,
    model: LanguageModel,
    config: FitConfig,
    pool: Pool,
    say: Say,
) -> dict[str, Any]:
    """What is measured there; nothing if there are no such texts.

    Of a gate it is how far it is open; edits behind a gate are not measured as if it were open.
    """
    if config.neutral is None:
        return {}
    say("measuring on neutral texts")
    texts = read_text_list(config.neutral, config.text_field, what="--neutral")
    if found.gate is not None:
        return {"mean_opening": mean_opening(model, site, found.gate, texts, config, pool)}
    norms = change_norms(model, edits, texts, config)
    return {**shift_of(model, edits, texts, config), "change_norm": norms}


def _separation(
    found: SiteFit, examples: Examples, read: ReadExamples
) -> Mapping[str, float] | None:
    """Of the held-out rows; scored texts are on the sides that they have among all texts."""
    if found.scores is None:
        return None
    scores_N = found.scores(examples.rows_ND[read.is_held_out_N])
    return separation(scores_N, examples.is_positive_N[read.is_held_out_N])


def _edits(
    found: SiteFit, site: str, model: LanguageModel, config: FitConfig
) -> tuple[FittedEdit, ...]:
    if found.direction_D is None:
        return ()
    if config.edit_kind == "project_out":
        tensors = {"u": _stored(unit(found.direction_D), model)}
    else:
        tensors = {"v": _stored(found.direction_D, model)}
    return (FittedEdit(kind=config.edit_kind, site=site, tensors=tensors),)


def _gate(gate: SiteGate, site: str, model: LanguageModel) -> FittedGate:
    tensors = {name: _stored(tensor, model) for name, tensor in gate.tensors.items()}
    return FittedGate(kind=gate.kind, site=site, tensors=tensors, settings=gate.settings)


def _stored(v: Float[Tensor, "..."], model: LanguageModel) -> Float[Tensor, "..."]:
    """In float32, or in the model's dtype if that is wider."""
    return v.to(at_least_float32(model.dtype))


def _left_out(read: ReadExamples) -> dict[str, int]:
    counts = {"without_content": read.without_content, "truncated": read.truncated}
    return {name: count for name, count in counts.items() if count}
