"""The part `absorption`: words of a letter that another latent has taken over."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from ....training.data.cache.held_out_rows import held_out_rows
from ....training.evaluation.latents.absorption import absorption as measure_absorption
from ....training.evaluation.latents.first_letters import first_letters, letter_probe, letter_rows
from ..part import Figure, Measured, Part, SuiteContext

_CONTEXTS = 1024


def absorption(context: SuiteContext) -> Sequence[Measured]:
    """What `absorption` finds about each autoencoder; those of one site share the probe.

    Nothing about transcoders, whose latents write to another place than the letters are read at.
    """
    if find_spec("sklearn") is None:
        why = "absorption: needs scikit-learn, which is missing; pip install 'sparsteer[eval]'"
        return [Measured(warnings=[why]) for _ in context.subjects]
    tokenizer: Any = context.model().tokenizer
    names: list[str] = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    letters_V = first_letters([name or "" for name in names])
    found: dict[int, Measured] = {}
    for site in dict.fromkeys(subject.site for subject in context.subjects):
        rows = held_out_rows(context.cache, contexts=_CONTEXTS, site=site)
        given = letter_rows(rows, letters_V, seed=context.seed)
        probe = letter_probe(given)
        for number, subject in enumerate(context.subjects):
            if subject.site == site and subject.target_site:
                found[number] = Measured()
            elif subject.site == site:
                result = measure_absorption(subject.sae, given, probe, seed=context.seed)
                warnings = [f"absorption: {result['why']}"] if result["why"] else []
                found[number] = Measured(
                    figures=_figures(result), details=result, warnings=warnings
                )
                context.progress(len(found), len(context.subjects))
    return [found[number] for number in sorted(found)]


def _figures(result: Mapping[str, Any]) -> list[Figure]:
    return [
        Figure(
            name="absorbed",
            value=result["rate"],
            heading="absorbed",
            standard_error=result["standard_error"],
            percent=True,
            digits=1,
        ),
        Figure(
            name="absorbed_by_chance",
            value=result["by_chance"],
            heading="by chance",
            percent=True,
            digits=1,
        ),
        Figure(
            name="letters",
            value=float(len(result["letters"])),
            heading="letters",
            digits=0,
        ),
        Figure(
            name="silent",
            value=result["silent_rate"],
            heading="silent",
            percent=True,
            digits=1,
            in_table=False,
        ),
    ]


ABSORPTION = Part(
    measure=absorption,
    heading="Absorption by first letters",
    reading="Words on which a letter's latents are silent and one other latent carries the letter; "
    "by chance is the same with another letter's direction. Not SAEBench's number: the letter is "
    "read from plain text by a linear probe, and only letters whose probe is good are looked at.",
    depends_on=("cache", "model"),
    needs_model=True,
)
