"""How well the toxicity scorers tell toxic texts from others, and how far they agree.

    python benchmarks/measure_toxicity_scorers.py [--paradetox paradetox.tsv] \\
        [--labeled FILE ...] [--ordinary NAME ...] [--scorers alt-profanity-check toxicity-ngrams]

A labeled file has a text and a label in each row (`text` or `test_case`; `is_toxic`, `label_gold`,
`toxic` or `bad`). `--ordinary` names texts that `sparsteer fetch` brings; spans of forty words of
them are held to be harmless.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from fit_toxicity_scorer import HELD_OUT, paradetox_rows, split
from results_file import write_table

from sparsteer.sae.fetching.fetch import fetch
from sparsteer.steering.detox.toxicity import NEUTRAL_SENTENCES, toxicity_scores
from sparsteer.training.data.row_files.opening import open_files, open_rows

metrics: Any = import_module("sklearn.metrics")  # without types

TEXTS = ("text", "test_case")
LABELS = ("is_toxic", "label_gold", "toxic", "bad")
TOXIC = {"toxic", "hateful", "true", "1", "bad"}
N_SPANS, N_WORDS = 1500, 40
MOST_TEXTS = 6000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paradetox")
    parser.add_argument("--labeled", nargs="*", default=[])
    parser.add_argument("--ordinary", nargs="*", default=["news", "encyclopedia", "chitchat"])
    parser.add_argument("--scorers", nargs=2, default=["alt-profanity-check", "toxicity-ngrams"])
    options = parser.parse_args()
    sources = {Path(name).name.split(".")[0]: labeled(name) for name in options.labeled}
    if options.paradetox:
        _, held_out = split(paradetox_rows(options.paradetox), HELD_OUT)
        pairs = [
            (text, label) for toxic, ok in held_out for text, label in ((toxic, 1), (ok[0], 0))
        ]
        sources = {"paradetox, not fitted on": pairs} | sources
    lines = [line(name, rows, options.scorers) for name, rows in sources.items()]
    lines += [line(name, spans(name), options.scorers) for name in options.ordinary]
    neutral = [(text, 0) for text in NEUTRAL_SENTENCES.values()]
    lines.append(line("identity sentences", neutral, options.scorers))
    figures = ("AUROC", "above .5 of toxic", "above .5 of others")
    columns = [f"{scorer}: {figure}" for scorer in options.scorers for figure in figures]
    write_table(
        "toxicity-scorers",
        ["texts", "n", "toxic", *columns, "same side of .5", "correlation"],
        lines,
        ["Texts as their sources label them; ordinary texts are held to be harmless."],
    )


def labeled(name: str) -> list[tuple[str, int]]:
    """Texts and whether they are toxic, a fixed sample of large files."""
    rows = [_read(row) for row in open_rows(name, "labeled").rows()]
    return random.Random(0).sample(rows, MOST_TEXTS) if len(rows) > MOST_TEXTS else rows


def _read(row: Mapping[str, Any]) -> tuple[str, int]:
    text = next(str(row[name]) for name in TEXTS if name in row)
    label = next(str(row[name]) for name in LABELS if name in row)
    return text, int(label.casefold() in TOXIC)


def spans(name: str) -> list[tuple[str, int]]:
    """Spans of words of a fetched text."""
    draw, found = random.Random(0), list[tuple[str, int]]()
    for row in open_files([fetch(name)]).rows():
        words = str(row.get("text") or row.get("extract") or "").split()
        if len(words) > N_WORDS:
            start = draw.randrange(len(words) - N_WORDS)
            found.append((" ".join(words[start : start + N_WORDS]), 0))
        if len(found) == N_SPANS:
            break
    return found


def line(name: str, rows: Sequence[tuple[str, int]], scorers: Sequence[str]) -> list[str]:
    texts, labels_N = [text for text, _ in rows], np.array([label for _, label in rows])
    scores = [np.array(toxicity_scores(texts, scorer)) for scorer in scorers]
    figures: list[str] = []
    for scores_N in scores:
        both = 0 < labels_N.mean() < 1
        figures.append(f"{metrics.roc_auc_score(labels_N, scores_N):.3f}" if both else "")
        for label in (1, 0):
            of_N = scores_N[labels_N == label]
            figures.append(f"{(of_N > 0.5).mean():.3f}" if len(of_N) else "")
    one_N, other_N = scores
    agree = ((one_N > 0.5) == (other_N > 0.5)).mean()
    correlation = np.corrcoef(one_N, other_N)[0, 1]
    share = f"{labels_N.mean():.2f}"
    return [name, f"{len(rows):,}", share, *figures, f"{agree:.3f}", f"{correlation:.2f}"]


if __name__ == "__main__":
    main()
