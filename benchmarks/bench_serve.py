"""The server against its goals: how soon it answers, how light its pages are, what steering costs.

    python benchmarks/bench_serve.py [--run RUN] [--latents 16384] [--model smollm2-135m]
        [--load-seconds 120] [--json]

Without a run it makes one: a random autoencoder of so many latents on the model, with an index that
is really built on 20,000 tokens of `news`; model and text are fetched. What needs Chromium is left
out, and that is said, where there is none (CHROMIUM or /usr/bin/chromium).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from results_file import machine
from served_run import make_run
from serving_pages import Figure, page_figures

HERE = Path(__file__).parent
SITE = "blocks.15.hook_resid_post"
TOKENS = 20_000


def main() -> None:
    """Measure, print a table or JSON, and end with status 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--run", type=Path, help="a run with a feature index; by default one is made"
    )
    parser.add_argument("--latents", type=int, default=16_384, help="of the run that is made")
    parser.add_argument("--model", default="smollm2-135m", help="of the run that is made")
    parser.add_argument("--site", default=SITE, help="of the run that is made")
    parser.add_argument("--load-seconds", type=float, default=120.0, help="0 leaves the load out")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run: Path = words.run or make_run(
            Path(folder),
            model=words.model,
            site=words.site,
            n_latents=words.latents,
            tokens=TOKENS,
        )
        chromium = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
        if not chromium.exists():
            print(f"there is no {chromium}: what the browser shows is left out", file=sys.stderr)
        figures = page_figures(run, chromium if chromium.exists() else None)
        loaded = _load(run, words.load_seconds) if words.load_seconds else None
    figures += _speed_figures(words.model)
    well = all(figure.met for figure in figures) and not (loaded and loaded["faults"])
    if words.json:
        pages = [{**vars(figure), "met": figure.met} for figure in figures]
        print(json.dumps({"machine": machine(), "pages": pages, "load": loaded}))
    else:
        print(f"{machine()}\n\n| measure | goal | figure |\n| --- | --- | --- |")
        for one in figures:
            mark = "" if one.met else " (missed)"
            goal = f"{'at least' if one.at_least else 'at most'} {one.goal:g} {one.unit}"
            print(f"| {one.name} | {goal} | {one.value:.3g} {one.unit}{mark} |")
        if loaded:
            _print_load(loaded, words.load_seconds)
    sys.exit(not well)


def _speed_figures(model: str) -> list[Figure]:
    """What steering costs, and what generating together gains."""
    command = [sys.executable, str(HERE / "serving_speed.py"), "--model", model, "--json"]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    figures = [
        Figure(f"steering costs, {name}", 100 * cost, 5.0, "%")
        for name, cost in found["steering_costs"].items()
    ]
    together = found["together_over_alone"]
    return [*figures, Figure("16 steered together over one by one", together, 6.0, "times", True)]


def _load(run: Path, seconds: float) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "load_serve.py"), str(run), "--seconds", str(seconds)]
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def _print_load(loaded: dict[str, Any], seconds: float) -> None:
    answers = ", ".join(f"{name}: {n:,}" for name, n in sorted(loaded["statuses"].items()))
    print(f"\n200 readers and 20 writers for {seconds:g} s: {answers}; {loaded['tokens']:,} tokens")
    print(f"slowest page {loaded['slowest_page']:.1f} s, memory {loaded['growth'] / 1e6:+.0f} MB")
    for fault in loaded["faults"]:
        print(f"fault: {fault}")


if __name__ == "__main__":
    main()
