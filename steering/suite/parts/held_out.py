"""The part `held_out`: reconstruction, sparsity, and the language model with the autoencoder in."""

from collections.abc import Mapping, Sequence
from typing import Any

from ....training.evaluation.evaluation import evaluate_subjects
from ..part import Figure, Measured, Part, SuiteContext


def held_out(context: SuiteContext) -> Sequence[Measured]:
    """What `evaluate_all` finds about each autoencoder, all of it in the details."""
    results = evaluate_subjects(
        context.subjects,
        context.cache,
        context.settings,
        load_model=context.model,
        say=context.say,
        progress=context.progress,
    )
    return [
        Measured(
            figures=_figures(result),
            details=result,
            warnings=result["warnings"],
        )
        for result in results
    ]


def _figures(result: Mapping[str, Any]) -> list[Figure]:
    figures = [
        Figure(
            name="fvu",
            value=result["fvu"],
            heading="FVU",
            standard_error=result["fvu_standard_error"],
            digits=4,
        ),
        Figure(
            name="explained_variance",
            value=result["explained_variance"],
            heading="explained",
            standard_error=result["fvu_standard_error"],
            percent=True,
            digits=1,
            in_table=False,
        ),
        Figure(name="l0", value=result["l0"], heading="L0", digits=1),
        Figure(
            name="dead_fraction",
            value=result["dead_fraction"],
            heading="dead",
            percent=True,
            digits=1,
        ),
        Figure(
            name="dense_fraction",
            value=result["dense_fraction"],
            heading="dense",
            percent=True,
            digits=1,
            in_table=False,
        ),
        Figure(
            name="decoder_overlap",
            value=result["decoder_overlap"],
            heading="overlap",
            digits=4,
            in_table=False,
        ),
    ]
    losses = result["language_model"]
    if losses is not None:
        figures += [
            Figure(
                name="loss_recovered",
                value=losses["loss_recovered"],
                heading="recovered",
                standard_error=losses["loss_recovered_standard_error"],
                percent=True,
                digits=1,
            ),
            Figure(
                name="kl_with_sae",
                value=losses["kl_with_sae"],
                heading="KL",
                standard_error=losses["kl_with_sae_standard_error"],
            ),
            Figure(
                name="loss_with_sae",
                value=losses["loss_with_sae"],
                heading="loss",
                standard_error=losses["loss_with_sae_standard_error"],
                in_table=False,
            ),
        ]
    return figures


HELD_OUT = Part(
    measure=held_out,
    heading="held-out text",
    reading="FVU is the fraction of the variance missed, L0 the latents active on a row, recovered "
    "the fraction of the loss that zeroing the site costs, KL the divergence from the language "
    "model's own predictions in nats.",
)
