"""The model card: README.md with what was measured, how it was trained, and how to load it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...sae.common.mixtures import renamed, shares_of
from ...sae.common.wording import count, counted, duration
from ..report.markdown import table_of
from ..report.measures import held_out, measures, of_rows, place
from .loading import loading
from .source import Published

LIBRARY = "sparsteer"
"""The `library_name` of every card that is written here."""

_TAGS = ("sparse-autoencoder", "mechanistic-interpretability", "sparsteer")
_NOT_MEASURED = "not measured (run `sparsteer eval`)"
_OF_THE_MODEL = (
    ("loss with SAE", "the language model's loss with the autoencoder at its site"),
    ("recovered", "of what zeroing the site costs; 100% is no harm"),
    ("KL", "nats from the model's own predictions"),
)
"""Measures that need the language model, as `measures` names them."""


def card(
    published: Published,
    *,
    plots: Mapping[str, str],
    no_saelens: str | None,
    index: Mapping[str, Any] | None,
) -> str:
    """The text of README.md.

    Args:
        published: what is known of the run.
        plots: what each plot shows, by its path in the repository.
        no_saelens: why there is no folder in SAELens's layout; None if there is one.
        index: the manifest of the feature index; None if none is published.
    """
    name = published.config.repo.partition("/")[2]
    sections = [
        f"# {name}",
        lead(published),
        "## Measures",
        *measured(published),
        *(["## Plots", *(f"![{label}]({path})" for path, label in plots.items())] if plots else []),
        "## Loading",
        *loading(published, no_saelens),
        "## Training",
        *trained(published),
        *(["## Feature index", *_indexed(published, index)] if index else []),
        "## License",
        _licensed(published),
    ]
    return "\n\n".join([front_matter(published, saelens=no_saelens is None), *sections]) + "\n"


def front_matter(published: Published, *, saelens: bool) -> str:
    """The metadata by which the hub sorts repositories; only what is known."""
    dataset = published.dataset
    names = [share.name for share in shares_of(dataset or "")] or [dataset or ""]
    on_hub = [name for name in names if name.count("/") == 1 and not name.startswith("./")]
    values = {
        "library_name": LIBRARY,
        "license": published.config.license,
        "base_model": published.hub_model,
        "datasets": on_hub or None,
        "tags": [*_TAGS, *(["saelens"] if saelens else [])],
    }
    known = {name: value for name, value in values.items() if value is not None}
    return f"---\n{yaml.safe_dump(known, sort_keys=False)}---"


def lead(published: Published) -> str:
    """What it is: activation, sizes, site and language model, in sentences."""
    sae, origin = published.sae, published.sae.origin
    config = sae.config
    kind = f"`{config.activation}` {config.kind}"
    text = f"A {kind} of {counted(config.n_latents, 'latent')} over activations of width "
    text += f"{count(config.d_model)}"
    if origin is None:
        return f"{text}."
    stands = place({"site": f"`{origin.site}`", "target_site": _code(origin.target_site)})
    text += f", {stands} of {_model(published)}."
    return f"{text} The language model's weights have the SHA-256 `{origin.weights_hash}`."


def _model(published: Published) -> str:
    if published.hub_model:
        return f"[{published.hub_model}](https://huggingface.co/{published.hub_model})"
    return f"a local model called `{Path(published.model or '').name}`"


def measured(published: Published) -> Iterator[str]:
    """Paragraphs and a table of what was measured, or of the end of training where it was not."""
    found = published.evaluation
    if found is not None:
        yield f"On {held_out(found)}."
        rows, model = measures(found), found["language_model"]
    else:
        at_end = published.summary["held_out"]
        yield f"On {counted(at_end['rows'], 'held-out row')}, at the end of training."
        rows, model = of_rows(at_end), None
    if model is None:
        rows = [*rows, *((name, _NOT_MEASURED, how) for name, how in _OF_THE_MODEL)]
    yield table_of(("Measure", "Value", "How to read it"), rows)
    if found is not None:
        yield "The figure after ± is the standard error, over documents or contexts."
    warnings: Sequence[str] = (found or published.summary).get("warnings", ())
    if warnings:
        yield "\n".join(f"- Caution: {text}." for text in warnings)


def trained(published: Published) -> Iterator[str]:
    """Paragraphs on the training, with all its settings."""
    summary, origin = published.summary, published.sae.origin
    data: list[str] = []
    if origin is not None:
        if published.dataset:
            texts = renamed(published.dataset, lambda name: name.removeprefix("./"))
            data.append(f"on text of `{texts}`")
        if origin.context_length:
            begins = {True: ", each begun with BOS", False: ", none begun with BOS", None: ""}
            data.append(
                f"in contexts of {counted(origin.context_length, 'token')}"
                f"{begins[origin.prepends_bos]}"
            )
        data.append(f"with the language model in {origin.model_dtype}")
    where = f" {', '.join(data)}" if data else ""
    device = published.environment.get("device")
    yield (
        f"{counted(summary['tokens'], 'row')} in {counted(summary['steps'], 'step')}{where}; "
        f"{duration(summary['seconds'])}{f' on {device}' if device else ''}."
    )
    versions: Mapping[str, str | None] = published.environment.get("packages", {})
    if known := ", ".join(f"{name} {v}" for name, v in versions.items() if v):
        yield f"Trained with {known}."
    settings = json.dumps(published.settings, indent=2, ensure_ascii=False)
    yield (f"<details><summary>All settings</summary>\n\n```json\n{settings}\n```\n\n</details>")


def _indexed(published: Published, index: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"`features/` says of each latent how often and how strongly it fires on "
        f"{counted(index['rows'], 'row')}, and shows up to {count(index['examples'])} places where "
        "it does. It holds excerpts of the corpus, whose own license goes for them."
    )
    yield _python(
        "from huggingface_hub import snapshot_download\n"
        "from sparsteer.steering.features import FeatureIndex\n\n"
        f'folder = snapshot_download("{published.config.repo}", allow_patterns=["features/*"])\n'
        'print(FeatureIndex(f"{folder}/features").feature(0))'
    )


def _licensed(published: Published) -> str:
    if published.config.license is None:
        return "None is stated."
    return (
        f"`{published.config.license}`, of the autoencoder; the language model and the corpus have "
        "their own."
    )


def _code(text: str | None) -> str | None:
    return None if text is None else f"`{text}`"


def _python(code: str) -> str:
    return f"```python\n{code}\n```"
