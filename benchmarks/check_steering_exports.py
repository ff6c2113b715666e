"""Steering exported to the tools that read it, against the model steered here.

    python -m benchmarks.check_steering_exports [--environments .peers] [--easysteer FOLDER]

A tiny random Llama and a random autoencoder, float32: two features are exported in each format,
and the tool itself reads the file in an environment of its own, made with pip if it is missing.
Whoever runs a model runs the same tokens; log-probabilities are compared, steered there and here.
lm-evaluation-harness runs a task of its own offline, with and without the file. EasySteer needs a
GPU; its reader of files runs from a copy of its repository.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.environments import FOLDER, python_of
from benchmarks.results_file import write_table
from sparsteer.sae import LanguageModel, SparseAutoencoder, TopKConfig
from sparsteer.steering import Intervention, SteeredFeature, export_intervention, steer
from sparsteer.steering.registries import STEERING_FORMATS
from tests.steering.model_families import save_model

WORKER = Path(__file__).with_name("steering_export_worker.py")
SITE = "blocks.1.hook_resid_post"
MOST = 1e-4
"""Nats by which a log-probability may differ, of changes that are over 1."""

ENVIRONMENT_NAMES = ("lm-eval", "repeng", "llama-cpp")

READERS = {
    "gguf": (
        ("repeng", "repeng", "repeng 0.4.0, `ControlModel`"),
        ("llama-cpp", "llama_cpp", "llama.cpp b11549 (xllamacpp), float32"),
    ),
    "easysteer": (("lm-eval", "easysteer", "EasySteer (August 2026), its reader of files"),),
    "hotwire": (("lm-eval", "hotwire", "hotwire-vllm 0.1.2, its store of vectors"),),
    "transformers": (("lm-eval", "transformers", "transformers, `AutoModelForCausalLM`"),),
}
"""Of each format the environment, the function of the worker, and what the table calls it."""

ANSWERS = ("a", "q", "7", ".", " to the sea", "b c", "yes, it is", "\n")
"""The first four are one token each."""


class World:
    """The model, the autoencoder and the intervention, and what the model says with and without."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        save_model("llama", folder / "model")
        self.model = LanguageModel.load(str(folder / "model"))
        self.sae = SparseAutoencoder(TopKConfig(d_model=32, n_latents=70, k=9), seed=3)
        self.sae.input_scale.fill_(2.7)
        features = (
            SteeredFeature(index=7, strength=-1.5, max_activation=11.0),
            SteeredFeature(index=40, strength=0.5, max_activation=9.0),
        )
        self.intervention = Intervention.of_features(site=SITE, features=features)
        for format in STEERING_FORMATS.names():
            out = folder / format
            export_intervention(self.model, self.sae, self.intervention, out, format)

    def log_probabilities(self, tokens_BL: Tensor, *, steered: bool) -> Float[Tensor, "B L V"]:
        if not steered:
            return self.model.logits(tokens_BL).log_softmax(-1)
        with steer(self.model, self.sae, self.intervention):
            return self.model.logits(tokens_BL).log_softmax(-1)

    def answer(self, text: str, answer: str, *, steered: bool) -> float:
        """The log-likelihood of an answer behind a text."""
        before, ids = self.model.tokenize(text), self.model.tokenize(answer)
        found_LV = self.log_probabilities(torch.tensor([before + ids]), steered=steered)[0]
        places = range(len(before) - 1, len(before) + len(ids) - 1)
        return sum(float(found_LV[at, token]) for at, token in zip(places, ids, strict=True))


def lm_eval_row(world: World, python: str) -> list[str]:
    """Run the harness on a task of its own, with and without the steering file."""
    folder = world.folder
    draw = torch.Generator().manual_seed(1)
    letters = [chr(97 + int(n)) for n in torch.randint(26, (24 * 9,), generator=draw)]
    texts = ["".join(letters[9 * n : 9 * n + 3 + n % 7]) for n in range(24)]
    ours = {
        steered: [[world.answer(text, each, steered=steered) for each in ANSWERS] for text in texts]
        for steered in (False, True)
    }
    best = [int(np.argmax(row)) for row in ours[True]]
    rows = [{"text": text, "best": at} for text, at in zip(texts, best, strict=True)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks").mkdir()
    task = {
        "task": "answers",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{best}}",
        "doc_to_choice": list(ANSWERS),
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "tasks" / "answers.yaml").write_text(json.dumps(task))  # JSON is YAML
    accuracy: dict[bool, float] = {}
    theirs: dict[bool, list[list[float]]] = {}
    for steered in (False, True):
        accuracy[steered], theirs[steered] = run_lm_eval(world, python, steered=steered)
    expected = float(
        np.mean([np.argmax(row) == at for row, at in zip(ours[False], best, strict=True)])
    )
    if (accuracy[False], accuracy[True]) != (expected, 1.0):
        raise SystemExit(f"lm-eval has accuracies of {accuracy}, not {expected} and 1")
    difference = np.abs(np.array(theirs[True]) - np.array(ours[True]))
    base = np.abs(np.array(theirs[False]) - np.array(ours[False])).max()
    one_token = difference[:, :4].max()
    if max(difference.max(), base) > MOST:
        raise SystemExit(f"lm-eval differs by {difference.max()}, without steering by {base}")
    effect = np.abs(np.array(theirs[True]) - np.array(theirs[False])).max()
    compared = (
        f"{difference.size} answers to {len(texts)} texts, half of them one token "
        f"({one_token:.1e}); accuracy {accuracy[False]:.2f}, steered {accuracy[True]:.2f}, as here"
    )
    reader = "lm-eval 0.4.13, `--model steered`"
    return ["lm-eval", reader, compared, f"{difference.max():.1e}", f"{effect:.2f}"]


def run_lm_eval(world: World, python: str, *, steered: bool) -> tuple[float, list[list[float]]]:
    """The accuracy, and the log-likelihood of every answer to every text."""
    arguments = f"pretrained={world.folder / 'model'},dtype=float32"
    if steered:
        arguments += f",steer_path={world.folder / 'lm-eval' / 'steering.pt'}"
    out = world.folder / f"results-{steered}"
    words = [python, "-m", "lm_eval", "--model", "steered" if steered else "hf"]
    words += ["--model_args", arguments, "--tasks", "answers", "--device", "cpu"]
    words += ["--include_path", str(world.folder / "tasks"), "--batch_size", "7"]
    run([*words, "--output_path", str(out), "--log_samples"], world.folder)
    (results,) = out.rglob("results_*.json")
    (samples,) = out.rglob("samples_answers_*.jsonl")
    lines = sorted(
        map(json.loads, samples.read_text().splitlines()), key=lambda line: line["doc_id"]
    )
    found = [[float(response[0][0]) for response in line["resps"]] for line in lines]
    return json.loads(results.read_text())["results"]["answers"]["acc,none"], found


def reader_row(world: World, format: str, name: str, title: str, python: str) -> list[str]:
    """Let a tool read an export, and compare what it has or what its model says."""
    out = run([python, str(WORKER), name, format, str(world.folder)], world.folder)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    if found["difference"] > MOST:
        raise SystemExit(f"{format}, read by {name}, differs by {found['difference']}")
    effect = f"{found['effect']:.2f}" if "effect" in found else ""
    return [format, title, found["compared"], f"{found['difference']:.1e}", effect]


def run(words: list[str], folder: Path) -> str:
    """Standard output of a command without a network."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    environment = {**os.environ, **offline, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{done.stderr}\n{' '.join(words)} failed")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=Path, default=FOLDER)
    parser.add_argument("--easysteer", type=Path, help="a copy of github.com/ZJU-REAL/EasySteer")
    arguments = parser.parse_args()
    pythons = {
        name: python_of(name, arguments.environments.resolve()) for name in ENVIRONMENT_NAMES
    }
    if arguments.easysteer:
        os.environ["EASYSTEER"] = str(arguments.easysteer.resolve())
    with tempfile.TemporaryDirectory() as name:
        world = World(Path(name))
        tokens_BL = torch.randint(3, 259, (4, 24), generator=torch.Generator().manual_seed(2))
        base, steered = (
            world.log_probabilities(tokens_BL, steered=on).numpy() for on in (False, True)
        )
        reference = world.folder / "reference.npz"
        np.savez(reference, tokens=tokens_BL.numpy(), base=base, steered=steered)
        lines = [lm_eval_row(world, pythons["lm-eval"])]
        for format, readers in READERS.items():
            for environment, worker, title in readers:
                if worker == "easysteer" and not arguments.easysteer:
                    title, cells = "not read here: give `--easysteer FOLDER`", ["", "", ""]
                    lines.append([format, title, *cells])
                    continue
                lines.append(reader_row(world, format, worker, title, pythons[environment]))
    header = ["format", "read by", "compared", "largest difference", "steering changes it by"]
    write_table(
        "steering-exports",
        header,
        lines,
        [
            "Differences are in nats, of log-probabilities steered there and here, or in the "
            "model's own units, of the vector. A tiny random Llama of 3 blocks, two features at "
            "block 1, float32; the last column is the largest change that steering makes to what "
            "is compared."
        ],
    )


if __name__ == "__main__":
    main()
