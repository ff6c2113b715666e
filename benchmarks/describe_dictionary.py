"""The figures and twenty features of a dictionary that ships, for docs/dictionary.md.

    python -m benchmarks.describe_dictionary [NAME]

Writes results/DATE-dictionary.md (files, texts, figures) and results/DATE-dictionary-features.md;
`python benchmarks/fill_docs.py docs/dictionary.md` puts them into the page. The features are chosen
by `spread_by_density`, which looks at no text.
"""

import argparse
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.results_file import RESULTS
from sparsteer.app.report.markdown import suite_tables, table_of
from sparsteer.app.report.measures import held_out, measures
from sparsteer.sae.common.files import read_json
from sparsteer.sae.common.shipped import DEFAULT, RECORD, shipped_folder
from sparsteer.sae.common.text import visible
from sparsteer.sae.common.wording import count, counted, percent, size
from sparsteer.steering.features import Example, FeatureIndex
from sparsteer.steering.features.listing import spread_by_density
from sparsteer.steering.features.manifest import source_of

_TOP, _OTHERS = 3, 2
"""Examples shown of a feature: of the largest activations, and of all its activations at random."""
_TOKENS = 5
_FEATURES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", nargs="?", default=DEFAULT)
    name = parser.parse_args().name
    for path in write_results(name, RESULTS):
        print(path)


def write_results(name: str, folder: Path) -> list[Path]:
    """Write both files of today into the folder, and give their paths."""
    shipped, today = shipped_folder(name), f"{datetime.now(UTC):%Y-%m-%d}"
    index = FeatureIndex.of_run(name)
    texts = {
        "dictionary": "\n\n".join(_described(name, shipped)),
        "dictionary-features": "\n\n".join(_features(index)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{today}-{title}.md" for title in texts]
    for path, (title, text) in zip(paths, texts.items(), strict=True):
        path.write_text(f"# {title}\n\n{text}\n", encoding="utf-8")
    return paths


def _described(name: str, folder: Path) -> Iterator[str]:
    record = read_json(folder / RECORD, "dictionary's record")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    sizes = [(str(file.relative_to(folder)), size(file.stat().st_size)) for file in files]
    total = size(sum(file.stat().st_size for file in files))
    yield f"`{name}`, fingerprint `{record['sae']}`:"
    yield table_of(("File", "Size"), [*sizes, ("in all", total)])
    yield table_of(("Text", "Rows", "License", "From"), [_text(text) for text in record["sources"]])
    for title, file in record["evaluations"].items():
        found = read_json(folder / file, "evaluation")
        if "autoencoders" in found:
            yield f"By {title}:"
            yield from suite_tables(found)
        if "fvu" in found:
            yield f"On {title}, {held_out(found)}:"
            yield table_of(("Measure", "Value", "How to read it"), measures(found))
    int8 = record["int8"]
    yield (
        f"Stored in int8 it shares {percent(int8['shared'])} of a row's active latents with the "
        f"autoencoder as it was trained, on {counted(int8['rows'], 'held-out row')}; "
        f"reconstructions differ by {percent(int8['reconstruction_error'])} of the norm of the "
        "rows less their mean."
    )


def _text(source: Mapping[str, Any]) -> tuple[str, str, str, str]:
    rows = f"{count(source['rows'])} ({percent(source['fraction'])})"
    return source["name"], rows, source["license"], source["origin"]


def _features(index: FeatureIndex) -> Iterator[str]:
    for number in spread_by_density(index, _FEATURES):
        feature = index.feature(number)
        yield f"### Feature {number}"
        facts = f"On {100 * feature.density:.3g}% of the rows; largest activation "
        facts += f"{feature.max_activation:.3g}"
        if feature.token_explained is not None:
            facts += f"; the token alone explains {percent(feature.token_explained)}"
        if feature.positive_logits:
            raised = (_code(visible(token.text)) for token in feature.positive_logits[:_TOKENS])
            facts += f"; raises {', '.join(raised)}"
        yield f"{facts}."
        examples = [*feature.top[:_TOP], *feature.random[:_OTHERS]]
        yield "\n".join(_example(index, example) for example in examples)


def _example(index: FeatureIndex, example: Example) -> str:
    texts = [visible(text) for text in example.texts]
    texts[example.peak] = f"⟦{texts[example.peak]}⟧"
    source = source_of(index.manifest, example.document)
    where = f" ({source[0]} {source[1]})" if source else ""
    return f"- {example.activation:.3g}{where}: {_code(''.join(texts))}"


def _code(text: str) -> str:
    """A text as code in Markdown, whatever backticks are in it."""
    fence = "`"
    while fence in text:
        fence += "`"
    inner = f" {text} " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else text
    return f"{fence}{inner}{fence}"


if __name__ == "__main__":
    main()
