"""Make the weights of the scorer `toxicity-ngrams` anew.

    python benchmarks/fit_toxicity_scorer.py --paradetox paradetox.tsv --ordinary FILE ... \\
        [--held-out 1500] [--out steering/detox/ngrams/weights.safetensors]

`paradetox.tsv` is that of github.com/s-nlp/paradetox (CC0). Each of the other files holds ordinary
text, a document in a row's field `text`: the corpora `masc_tagged`, `state_union`, `inaugural` and
`movie_reviews` of NLTK, in this order. The last `--held-out` sentences of a fixed shuffle are not
fitted on; `measure_toxicity_scorers.py` measures on them.
"""

import argparse
import csv
import random
from collections.abc import Sequence
from pathlib import Path

from sparsteer.sae.common.files import atomic_file, sha256_file
from sparsteer.steering.detox.ngram_fit import fit_ngram_classifier
from sparsteer.steering.detox.ngram_scorer import WEIGHTS_FILE
from sparsteer.training.data.row_files.opening import open_rows

HELD_OUT = 1500
"""Sentences of ParaDetox that are not fitted to."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paradetox", required=True)
    parser.add_argument("--ordinary", nargs="+", required=True)
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--out", type=Path, default=WEIGHTS_FILE)
    options = parser.parse_args()
    fitted, _ = split(paradetox_rows(options.paradetox), options.held_out)
    ordinary = [
        [str(row["text"]) for row in open_rows(name, "ordinary").rows()]
        for name in options.ordinary
    ]
    classifier = fit_ngram_classifier(
        [toxic for toxic, _ in fitted],
        [text for _, neutral in fitted for text in neutral],
        ordinary,
    )
    with atomic_file(options.out) as temporary:
        classifier.save(temporary)
    print(f"wrote {options.out}, sha256 {sha256_file(options.out)}")


def paradetox_rows(path: str) -> list[tuple[str, list[str]]]:
    """Each toxic sentence with its harmless paraphrases, one to three."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = [
        (row["toxic"], [row[name] for name in ("neutral1", "neutral2", "neutral3") if row[name]])
        for row in rows
    ]
    return [(toxic, neutral) for toxic, neutral in found if neutral]


def split(
    rows: Sequence[tuple[str, list[str]]], held_out: int
) -> tuple[Sequence[tuple[str, list[str]]], Sequence[tuple[str, list[str]]]]:
    """Those to fit on and those to measure on, always the same."""
    order = random.Random(0).sample(range(len(rows)), len(rows))
    shuffled = [rows[number] for number in order]
    return shuffled[: len(rows) - held_out], shuffled[len(rows) - held_out :]


if __name__ == "__main__":
    main()
