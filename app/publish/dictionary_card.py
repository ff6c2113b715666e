"""The card of a dictionary that comes with this package: data, figures, limits, how it is made."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...sae.common.wording import count, counted, percent
from ...training.evaluation.code_agreement import CodeAgreement
from ..report.markdown import suite_tables, table_of
from .card import front_matter, lead, measured, trained
from .source import Published
from .text_sources import TextSource

_SHOWN_ABOVE = frozenset(
    "fingerprint sae cache site precision format version origin warnings norms density_histogram "
    "language_model".split()
)
"""Of an evaluation, what is no figure of its own or stands in the table above."""


@dataclass(frozen=True, kw_only=True)
class DictionaryFacts:
    """What the card says beside what any run's card says."""

    name: str
    published: Published
    """The run, with the autoencoder that is shipped in the place of that which was trained."""
    fingerprint: str
    """Of the autoencoder that is shipped."""
    sources: Sequence[TextSource]
    weights: Mapping[str, str]
    """Of the texts, as the cache was asked for them."""
    evaluations: Mapping[str, Mapping[str, Any]]
    """What `sparsteer eval --json` printed, by what it was measured on."""
    agreement: CodeAgreement
    """Of the autoencoder as trained with the one that is shipped."""
    index: Mapping[str, Any]
    """The manifest of the feature index."""
    limits: Sequence[str]
    """Sentences."""
    commands: Sequence[str]
    """That made it, in their order."""
    make: str
    """The one command that runs them."""


def dictionary_card(facts: DictionaryFacts) -> str:
    """The text of README.md."""
    published = facts.published
    sections = [
        front_matter(published, saelens=False),
        f"# {facts.name}",
        lead(published),
        *_used(facts),
        "## Texts",
        *_texts(facts),
        "## Evaluation",
        *_evaluated(facts),
        "## Known limits",
        "\n".join(f"- {sentence}" for sentence in _limits(facts)),
        "## Training",
        *trained(published),
        "## Making it again",
        *_made(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _used(facts: DictionaryFacts) -> Iterator[str]:
    name = facts.name
    yield (
        "It is part of the package: every command and function that takes a run takes its name, "
        "and only the language model is fetched, once."
    )
    yield (
        f'```\nsparsteer features search {name} --text "The court ruled"\n'
        f"sparsteer serve {name}\n```"
    )
    yield (
        "```python\nfrom sparsteer import SparseAutoencoder\n\n"
        f'sae = SparseAutoencoder.load("{name}")\n```'
    )
    yield (
        f"Its fingerprint is `{facts.fingerprint}`. Encoder and decoder are stored in int8, with a "
        "scale for each latent."
    )


def _texts(facts: DictionaryFacts) -> Iterator[str]:
    rows = [
        (
            source.name,
            source.summary,
            facts.weights.get(source.name, ""),
            f"{count(source.rows)} ({percent(source.fraction)})",
            source.license,
            source.origin,
        )
        for source in facts.sources
    ]
    yield table_of(("Text", "What", "Weight", "Rows", "License", "From"), rows)
    yield (
        f"The autoencoder's own license is `{facts.published.config.license}`. `features.zip` "
        "holds excerpts of these texts, of at most "
        f"{facts.index['before'] + 1 + facts.index['after']} tokens each, and every excerpt keeps "
        "the license of its text; `sparsteer features show` names text and document of each, by "
        "which its authors are found."
    )


def _evaluated(facts: DictionaryFacts) -> Iterator[str]:
    for title, found in facts.evaluations.items():
        yield f"### {title}"
        if "autoencoders" in found:
            yield from suite_tables(found)
            continue
        if "fvu" in found:
            yield from measured(replace(facts.published, evaluation=found))
        further = list(figures(found))
        if further:
            table = table_of(("Figure", "Value"), further)
            yield f"<details><summary>Every figure</summary>\n\n{table}\n\n</details>"
    found = facts.agreement
    yield "### Stored in int8"
    yield (
        f"On {counted(found.rows, 'held-out row')} the autoencoder as it was trained and as it is "
        f"stored share {percent(found.shared)} (standard error "
        f"{100 * found.shared_standard_error:.2f}) of the latents that either has active on a row; "
        f"L0 is {found.l0:.1f} and {found.l0_other:.1f}. All codes differ by "
        f"{percent(found.value_error)} of their norm, reconstructions by "
        f"{percent(found.reconstruction_error)} of that of the rows less their mean."
    )
    yield "All other figures here are of the autoencoder as it is stored."


def figures(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every number in an evaluation, under its path of keys; lists are left to the file."""
    for name, value in values.items():
        if not prefix and name in _SHOWN_ABOVE - {"language_model"}:
            continue
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from figures(value, f"{path}.")  # pyright: ignore[reportUnknownArgumentType] - of JSON
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _limits(facts: DictionaryFacts) -> Iterator[str]:
    yield from facts.limits
    found = next((one for one in facts.evaluations.values() if "fvu" in one), None)
    if found is not None:
        yield (
            f"{percent(found['dead_fraction'])} of its latents fired on none of the "
            f"{count(found['rows'])} rows of the first evaluation, and "
            f"{percent(found['dense_fraction'])} on more than a tenth."
        )
    if len(facts.sources) > 1:
        largest = max(facts.sources, key=lambda source: source.rows)
        yield (
            f"{percent(largest.fraction)} of its rows are of {largest.name}: most features will be "
            "of that text, and other kinds of text are represented as the table above says."
        )
    yield (
        "Largest activations, the unit of steering strength, are those on "
        f"{count(facts.index['rows'])} rows; other text can exceed them."
    )
    yield "No feature has a label: what each stands for is for the reader to judge."


def _made(facts: DictionaryFacts) -> Iterator[str]:
    yield f"In a clone of the repository `{facts.make}` runs these, and goes on where it stopped:"
    yield "```\n" + "\n".join(facts.commands) + "\n```"
    yield (
        "On another processor or with another number of threads the last bits of activations "
        "differ, and so do single features; the figures above should come out alike."
    )
