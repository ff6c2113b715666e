"""The figures of a study of steering as tables, for docs/detox.md.

    python benchmarks/write_detox_results.py studies/detox

Writes results/DATE-detox.md from the study's result.json.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from results_file import write_texts

from sparsteer.app.report.study_rows import StudyTable, answer, cost_tables, criteria, goal_lines
from sparsteer.sae.common.files import read_json
from sparsteer.steering.study.runner import RESULT


def detox_texts(result: Mapping[str, Any]) -> Iterator[str]:
    """What the study was of, a table for each cost, the verdict, and what is to be kept in mind."""
    sizes = result["sizes"]
    yield (
        f"{result['model']}, {result['site']}, {result['run'] or 'no autoencoder'}; "
        f"{sizes['prompts']} prompts, {sizes['continuations']} continuations of each; fitted to "
        f"{sizes['positive']} positive and {sizes['negative']} negative texts; strengths chosen on "
        f"{sizes['tuning_prompts']} prompts and {sizes['tuning_neutral']} neutral texts; costs "
        f"reported on {sizes['neutral']} neutral texts."
    )
    for one in cost_tables(result):
        yield f"**{one.heading[0].upper()}{one.heading[1:]}**"
        yield _markdown(one)
    for goal in result["goal"]:
        held = [f"{words}: {answer(met)}" for words, met in criteria(goal)]
        yield "\n".join(f"- {line.strip()}" for line in (*goal_lines(goal), *held))
    failed = [f"left out: {one['name']}: {one['why']}" for one in result["failed"]]
    if kept_in_mind := [*result["cautions"], *failed]:
        yield "\n".join(f"- {line}" for line in kept_in_mind)


def _markdown(one: StudyTable) -> str:
    header = ["way to steer", *one.columns]
    lines = [header, ["---"] * len(header), *([name, *cells] for name, cells in one.lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    (folder,) = sys.argv[1:]
    result = read_json(Path(folder) / RESULT, "result of the study")
    path = write_texts("detox", list(detox_texts(result)), command="make study-detox")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
