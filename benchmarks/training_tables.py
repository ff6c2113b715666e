"""The tables and the sentence that are made of the results of bench_training.py."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training_cases import TrainingCase
from training_race import OURS, PLAIN, WARM_UP, WITH_DEAD
from training_results import TrainingRun

PEERS = {
    PLAIN: (PLAIN,),
    "sparsify": ("sparsify",),
    "dictionary_learning": ("dictionary_learning",),
    "SAELens": ("sae-lens", "sae-lens sparse"),
}
"""Others, and the ways to run each, of which the faster one counts."""
_RATIOS = (
    "Times as long as sparsteer's step: the ratio of the medians, in parentheses the least and the "
    "greatest ratio within a turn; of SAELens the faster of two ways. Its own with a tenth of the "
    "latents dead has AuxK at work, the others none. Rows verified: held-out ones whose latents "
    "the product in bfloat16 found for certain, after the last step."
)
_FIGURES = (
    f"Float32; everything that training does with a batch, in turn, after {WARM_UP} steps that "
    "warm up. FVU after all steps, on rows that were not trained on. MB: growth of the peak "
    "resident memory from before the autoencoder was built. sae-lens sparse: sparse activations "
    "without rescaling, its fastest way on a CPU; it cannot run AuxK there. sae-lens does not keep "
    "decoder rows at norm 1, which lowers FVU in the first steps. sparsify is run with Adam in "
    "place of its default optimizer, as the others."
)


def write_tables(runs: list[TrainingRun], path: Path) -> str:
    """Write `DATE-training.md` and `DATE-training-range.md` beside the file of results, for the
    documentation; the text of the first."""
    lines = ["# training", "", *(line for run in runs for line in tables_of(run))]
    text = "\n".join(lines)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    sentence = f"# training-range\n\n{range_sentence(runs)}\n"
    path.with_name(f"{path.stem}-range.md").write_text(sentence, encoding="utf-8")
    return text


def ratio(found: dict[str, Any], ways: Iterable[str]) -> tuple[float, float, float] | None:
    """How many times as long as ours the fastest of the ways takes: ratio of medians, least and
    greatest ratio within a turn; None if none took part."""
    taken = {each["library"]: each["seconds"] for each in found["libraries"]}
    own, others = taken[OURS], [taken[way] for way in ways if way in taken]
    if not others:
        return None
    other = min(others, key=statistics.median)
    turns = [theirs / ours for theirs, ours in zip(other, own, strict=True)]
    return statistics.median(other) / statistics.median(own), min(turns), max(turns)


def range_sentence(runs: list[TrainingRun]) -> str:
    """From the least ratio of any case on any host to the greatest, for each library, in words."""
    ranges: list[str] = []
    for peer, ways in PEERS.items():
        found = [
            each[0]
            for run in runs
            for name, case in run.cases.items()
            if not TrainingCase.parse(name).dead and (each := ratio(case, ways))
        ]
        if found:
            ranges.append(f"{peer} {_figure(min(found))} to {_figure(max(found))}")
    hosts = dict.fromkeys(run.host for run in runs)
    cases = {TrainingCase.parse(name) for run in runs for name in run.cases}
    cases = {case for case in cases if not case.dead}
    kinds = ", ".join(sorted({case.kind for case in cases}, reverse=True))
    return (
        f"The worst case first, the same step takes {', '.join(ranges)} times as long as ours: "
        f"ratios of medians over {len(cases)} cases of rows ({kinds}), sizes and weights, on "
        f"{len(hosts)} {'host' if len(hosts) == 1 else 'hosts'} ({'; '.join(hosts)})."
    )


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def tables_of(run: TrainingRun) -> list[str]:
    """The lines of a run: where and how, ratios case by case, then every library's figures."""
    settings = ", ".join(f"{name} {value}" for name, value in run.settings.items())
    return [
        f"{run.date}: {run.host}; {run.versions}",
        "",
        f"Command: `{run.command}` ({settings})",
        "",
        *_ratios(run),
        "",
        _RATIOS,
        "",
        *_figures(run),
        "",
        _FIGURES,
        *dict.fromkeys(
            f"{TrainingCase.parse(name).kind.capitalize()} rows: {found['rows']}."
            for name, found in run.cases.items()
        ),
        "",
    ]


def _ratios(run: TrainingRun) -> list[str]:
    header = ["rows", "D, F, k", "weights", "dead", "sparsteer, ms", "rows verified"]
    header += ["its own, a tenth dead", *PEERS]
    lines = [header, ["---"] * len(header)]
    for name, found in run.cases.items():
        own = next(each for each in found["libraries"] if each["library"] == OURS)
        share = own["verified"]
        line = [*_case_words(name, found), f"{1e3 * statistics.median(own['seconds']):.0f}"]
        line.append("not screened" if share is None else f"{share:.1%}")
        for ways in [(WITH_DEAD,), *PEERS.values()]:
            times = ratio(found, ways)
            line.append(f"{times[0]:.2f} ({times[1]:.2f} to {times[2]:.2f})" if times else "")
        lines.append(line)
    return [f"| {' | '.join(line)} |" for line in lines]


def _figures(run: TrainingRun) -> list[str]:
    header = ["rows", "D, F, k", "weights", "dead", "library", "median ms", "rows/s", "FVU", "MB"]
    lines = [header, ["---"] * len(header)]
    for name, found in run.cases.items():
        for each in found["libraries"]:
            median = statistics.median(each["seconds"])
            line = [*_case_words(name, found), each["library"], f"{1e3 * median:.0f}"]
            line += [f"{run.settings['batch'] / median:,.0f}", f"{each['fvu']:.4f}"]
            lines.append([*line, f"{each['megabytes']:,.0f}"])
    return [f"| {' | '.join(line)} |" for line in lines]


def _case_words(name: str, found: dict[str, Any]) -> list[str]:
    case = TrainingCase.parse(name)
    weights = f"after {case.trained_steps} steps" if case.trained_steps else "random"
    size = f"{found['width']}, {case.latents:,}, {case.k}"
    return [case.kind, size, weights, "a tenth" if case.dead else "none"]
