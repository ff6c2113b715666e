"""The part `meaning`: monosemanticity without a judge."""

from collections.abc import Mapping, Sequence
from typing import Any

from ....training.evaluation.latents.meaning import meaning as measure_meaning
from ....training.evaluation.latents.meaning_config import MeaningSettings
from ..part import Figure, Measured, Part, SuiteContext


def meaning(context: SuiteContext) -> Sequence[Measured]:
    """What `meaning` finds about a sample of each autoencoder's latents.

    Autoencoders that read one site share the passes of the language model.
    """
    settings: MeaningSettings = context.options
    model = context.model() if context.settings.contexts else None
    found: dict[int, dict[str, Any]] = {}
    for site in dict.fromkeys(subject.site for subject in context.subjects):
        here = [n for n, subject in enumerate(context.subjects) if subject.site == site]
        saes = [context.subjects[n].sae for n in here]
        results = measure_meaning(
            saes, context.cache, model, settings, site=site, seed=context.seed
        )
        found |= dict(zip(here, results, strict=True))
        context.progress(len(found), len(context.subjects))
    return [Measured(figures=_figures(found[n]), details=found[n]) for n in sorted(found)]


def _figures(result: Mapping[str, Any]) -> list[Figure]:
    explained, shares = result["token_explained"], result["share_of_one_token"]
    figures = [
        _figure("token_explained", explained, "by token"),
        Figure(
            name="token_detectors",
            value=result["token_detectors"],
            heading="detectors",
            percent=True,
            digits=1,
        ),
        _figure("share_of_one_token", shares, "one token", in_table=False),
    ]
    if (agreement := result["agreement"]) is not None:
        for kind, heading in (("top", "top"), ("weighted", "all")):
            found = agreement[kind]
            figures += [
                _figure(f"{kind}_beyond_token", found["beyond_token"], f"{heading} alike"),
                _figure(f"{kind}_in_all", found["in_all"], f"{heading} in all", in_table=False),
            ]
    return figures


def _figure(
    name: str, summary: Mapping[str, Any], heading: str, *, in_table: bool = True
) -> Figure:
    ends = None if summary["low"] is None else (summary["low"], summary["high"])
    return Figure(
        name=name, value=summary["mean"], heading=heading, interval=ends, in_table=in_table
    )


MEANING = Part(
    measure=meaning,
    heading="Meaning without a judge",
    reading="By token: how much of a latent's activation its token explains, R^2 on other "
    "documents; detectors are above 0.9. Alike: how often two examples of a latent, of the largest "
    "or of all activations, stand in more similar texts than a random text with the same token; "
    "0.5 is chance. Neither is the probability that a person understands a latent.",
    options=MeaningSettings,
    depends_on=("cache", "contexts", "model"),
)
