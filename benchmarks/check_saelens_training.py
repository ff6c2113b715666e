"""From SAELens to steered text: what SAELens trains on the default model, used here by commands.

    python benchmarks/check_saelens_training.py [--tokens 60000] [--steps 300] [--folder FOLDER]

It caches activations, lets SAELens (in `.peers/`) train a top-k autoencoder on them and measure it,
then imports it, evaluates it, builds its feature index, steers with a feature and scores rows with
`sparsteer`. The FVU of `eval` must be what SAELens computes on the same rows, to one part in
100,000. Figures go to benchmarks/results/.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from environments import python_of
from results_file import write_table

from sparsteer.sae.common.tensor_files import save_tensors
from sparsteer.training import ActivationCache

SITE = "blocks.15.hook_resid_post"
WORKER = Path(__file__).parent / "interop" / "saelens_training.py"
TOLERANCE = 1e-5


def sparsteer(*words: object) -> dict[str, Any]:
    """What a command reports; its progress is seen."""
    print("$ sparsteer", *words, file=sys.stderr)
    given = [sys.executable, "-m", "sparsteer", *map(str, words), "--json"]
    done = subprocess.run(given, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def trained_by_saelens(cache: Path, out: Path, steps: int) -> float:
    """Let SAELens train on the cache's rows; the FVU that it measures on the held-out ones."""
    activations = ActivationCache(cache)
    train = activations.sample(activations.n_train, site=SITE)
    rows, settings = out.with_suffix(".safetensors"), out.with_suffix(".json")
    save_tensors(rows, {"train": train, "held_out": activations.held_out(site=SITE).float()})
    metadata = {"model_name": "HuggingFaceTB/SmolLM2-135M-Instruct", "hook_name": SITE}
    values = {"rows": str(rows), "out": str(out), "n_latents": 4096, "k": 32, "steps": steps}
    values |= {"batch_size": 1024, "lr": 1e-3, "metadata": metadata}
    settings.write_text(json.dumps(values))
    command = [python_of("sae-lens"), str(WORKER), str(settings)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["fvu"]


def main() -> None:
    """Run every command, and end with status 1 if the two FVUs differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="keep the files here, and go on with them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(exist_ok=True)
        cache, foreign, run = folder / "cache", folder / "saelens", folder / "run"
        sparsteer(
            *("cache", "--model", "smollm2-135m", "--dataset", "news", "--site", SITE),
            *("--tokens", given.tokens, "--model-dtype", "float32", "--dtype", "float32"),
            *("--out", cache),
        )
        theirs = trained_by_saelens(cache, foreign, given.steps)
        imported = sparsteer("import", foreign, "--out", run)
        ours = sparsteer("eval", run, "--cache", cache, "--rows", 1_000_000)
        index = sparsteer("features", "build", run, "--cache", cache)
        feature = sparsteer("features", "list", run, "--top", 1)["features"][0]["feature"]
        sparsteer(
            *("generate", run, "--feature", feature, "--prompt", "The weather today"),
            *("--max-new-tokens", 20),
        )
        rows = folder / "rows.jsonl"
        texts = ("Add 3 and 4.", "Write a poem about rain.", "What is 12 times 7?")
        rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        scored = sparsteer(
            *("score", rows, "--target", rows, "--run", run),
            *("--out", folder / "scored.jsonl"),
        )
    difference = abs(ours["fvu"] - theirs) / theirs
    never = index["never_fired"]
    steps = {
        "SAELens 6 trains and measures": f"FVU {theirs:.7f} on {ours['rows']:,} held-out rows",
        "`sparsteer import`": _checked(imported["check"]),
        "`sparsteer eval`": f"FVU {ours['fvu']:.7f}, off by {difference:.1e}; L0 {ours['l0']:.1f}",
        "`sparsteer features build`": f"{index['rows']:,} rows; {never} latents never fired",
        "`sparsteer generate`": f"steered with feature {feature}",
        "`sparsteer score`": f"{scored['rows']} rows scored",
    }
    write_table(
        "saelens-training",
        ["step", "what it gives"],
        [[step, result] for step, result in steps.items()],
        [f"SmolLM2-135M-Instruct at {SITE}: {given.tokens:,} tokens, {given.steps} steps."],
    )
    if difference > TOLERANCE:
        sys.exit(f"the FVU is {ours['fvu']}, but SAELens computes {theirs}")


def _checked(check: dict[str, Any]) -> str:
    return f"FVU {check['fvu']:.4f}, L0 {check['l0']:.1f} on {check['rows']:,} rows of news"


if __name__ == "__main__":
    main()
