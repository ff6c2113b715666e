"""The part `prefixes`: nested dictionaries at every prefix, beside others of the site."""

from collections.abc import Mapping, Sequence
from typing import Any

from ....training.evaluation.latents.prefix_view import PrefixView
from ....training.evaluation.latents.prefixes import measure_prefixes
from ....training.evaluation.latents.splitting import splitting
from ..part import Figure, Measured, Part, SuiteContext


def prefixes(context: SuiteContext) -> Sequence[Measured]:
    """What `measure_prefixes` finds about each nested autoencoder, and `splitting` of its prefixes;
    nothing about others.

    Autoencoders of a trained prefix's width that are not nested stand beside.
    """
    found: list[Measured] = []
    for subject in context.subjects:
        config = subject.sae.config
        if not config.prefixes:
            found.append(Measured())
            continue
        others = [
            other
            for other in context.subjects
            if other.sites == subject.sites
            and other.baseline is None
            and not other.sae.config.prefixes
            and other.sae.config.n_latents in (*config.prefixes, config.n_latents)
        ]
        result = measure_prefixes(
            subject,
            others,
            context.cache,
            context.settings,
            load_model=context.model,
            progress=context.progress,
        )
        rows_ND = context.cache.held_out(site=subject.site, limit=context.settings.rows)
        result["splitting"] = {
            f"{width}": splitting(PrefixView(subject.sae, width), subject.sae, rows_ND)
            for width in config.prefixes
        }
        figures = [figure for one in result["prefixes"] for figure in _figures(one)]
        found.append(Measured(figures=figures, details=result))
    return found


def _figures(one: Mapping[str, Any]) -> list[Figure]:
    width, in_table = one["latents"], bool(one["trained"])
    figures = [
        Figure(
            name=f"fvu_{width}",
            value=one["fvu"],
            heading=f"FVU {width}",
            standard_error=one["fvu_standard_error"],
            in_table=in_table,
        ),
        Figure(
            name=f"l0_{width}", value=one["l0"], heading=f"L0 {width}", digits=1, in_table=False
        ),
        Figure(
            name=f"dead_{width}",
            value=one["dead_fraction"],
            heading=f"dead {width}",
            percent=True,
            in_table=False,
        ),
    ]
    if (losses := one["language_model"]) is not None:
        figures.append(
            Figure(
                name=f"loss_recovered_{width}",
                value=losses["loss_recovered"],
                heading=f"recovered {width}",
                standard_error=losses["loss_recovered_standard_error"],
                percent=True,
                in_table=False,
            )
        )
    return figures


PREFIXES = Part(
    measure=prefixes,
    heading="Prefixes of nested dictionaries",
    reading="FVU of the first so many latents alone; L0 within a prefix, dead latents, loss "
    "recovered, prefixes between the trained ones and autoencoders of those widths are in the "
    "details. A prefix has fewer active latents than the whole, so compare at the L0 that it has.",
    together=True,
)
