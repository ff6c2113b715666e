"""Does selection find the rows of a task again from five of them? Beside it: chance, length, and
the cosine of mean activations without an autoencoder.

    python benchmarks/measure_selection.py RUN [--max-length 128] [--ratio 0.1] [--draws 5]

The rows are those of `sparsteer fetch instructions`. Each group is a task; five of its rows, drawn
several times, are the target and leave the pool. The figure is the group's fraction of the rows
that are selected from the pool, mean and standard deviation over the draws.
"""

import argparse
import json
import random
import statistics
from collections import Counter
from dataclasses import replace

from results_file import write_table

from sparsteer.sae.fetching.fetch import fetch
from sparsteer.steering.loading import load_run
from sparsteer.steering.selection.read_rows import ReadRows, read_rows
from sparsteer.steering.selection.selecting import best, rows_of_ratio
from sparsteer.training.data.row_files.row_text import find_text_fields

N_TARGETS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    rows = [json.loads(line) for line in fetch("instructions").read_text("utf-8").splitlines()]
    fields = find_text_fields(Counter(name for row in rows for name in row), None, "rows", "field")
    loaded = load_run(options.run, say=print)
    texts = [fields.text_of(row) for row in rows]
    read = read_rows(loaded, texts, batch_size=32, max_length=options.max_length)
    centered_ND = read.mean_activations_ND - read.mean_activations_ND.mean(0)
    centered = replace(read, mean_activations_ND=centered_ND)
    rankings = {
        "jaccard": (read, "jaccard"),
        "mean activation": (read, "mean_activation"),
        "the same, centered": (centered, "mean_activation"),
        "length": (read, "length"),
    }
    groups = [row["group"] for row in rows]
    lines = [
        measure(group, groups, rankings, options.ratio, options.draws)
        for group in sorted(set(groups))
    ]
    notes = [
        f"The group's fraction of the selected rows, mean and standard deviation of "
        f"{options.draws} targets of {N_TARGETS} rows. {len(rows)} rows, {options.ratio:.0%} of "
        f"the pool selected, {options.max_length} tokens read of a row.",
        f"{loaded.sae.config}, {loaded.site.name} of {loaded.model.name}.",
    ]
    write_table("selection", ["group", "chance", *rankings], lines, notes)


def measure(
    group: str,
    groups: list[str],
    rankings: dict[str, tuple[ReadRows, str]],
    ratio: float,
    draws: int,
) -> list[str]:
    """A line of the table: the group's fraction of the selected rows, for each ranking, which is
    rows and a method's name."""
    members = [place for place, other in enumerate(groups) if other == group]
    fractions: dict[str, list[float]] = {name: [] for name in rankings}
    for draw in range(draws):
        target = sorted(random.Random(f"{draw} {group}").sample(members, N_TARGETS))
        pool = [place for place in range(len(groups)) if place not in target]
        for name, (read, method) in rankings.items():
            scored = read.take(pool).scored_against(read.take(target), method)
            chosen = best([row.score for row in scored], rows_of_ratio(ratio, len(pool)))
            fraction = sum(groups[pool[place]] == group for place in chosen) / len(chosen)
            fractions[name].append(fraction)
    chance = (len(members) - N_TARGETS) / (len(groups) - N_TARGETS)
    shown = [
        f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
        for values in fractions.values()
    ]
    return [group, f"{chance:.2f}", *shown]


if __name__ == "__main__":
    main()
