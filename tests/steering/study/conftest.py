"""A tiny run with its feature index, texts of two kinds, and settings of a small study."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import LanguageModel
from sparsteer.steering.features import BuildConfig, build_index
from sparsteer.steering.study.config import StudyConfig

from ...tiny_runs import cache_of_texts, random_topk

INSULTS = ("fool", "idiot", "clown", "donkey", "liar", "crook", "brute", "pest")
THINGS = ("river", "garden", "window", "bridge", "kettle", "meadow", "candle", "ladder")

MakeConfig = Callable[..., StudyConfig]


@dataclass(frozen=True)
class StudyFiles:
    """Where the run and the texts lie."""

    run: str
    positive: str
    negative: str
    prompts: str
    neutral: str
    questions: tuple[str, ...]


def _written(path: Path, texts: Sequence[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture(scope="session")
def study_files(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> StudyFiles:
    folder = tmp_path_factory.mktemp("study")
    positive = [f"you {a} of a {b}!" for a in INSULTS for b in INSULTS[:3] if a != b]
    negative = [f"the {a} by the {b}." for a in THINGS for b in THINGS[:3] if a != b]
    neutral = [f"In the {a} there is one {b}, and it is old." for a, b in pairwise(THINGS)]
    run = folder / "run"
    random_topk(tiny_model, 64, k=6, seed=3).save(run / "sae")
    cache = cache_of_texts(
        folder,
        tiny_model,
        [*positive, *negative, *neutral],
        tokens=2_000,
        context_length=24,
        batch_size=8,
        shard_rows=400,
    )
    build = BuildConfig(
        run=str(run), cache=str(cache), examples=2, neighbors=2, logits=2, device="cpu"
    )
    build_index(build, model=tiny_model)
    questions = folder / "colors.jsonl"
    asked = [{"question": f"Is {thing} red?", "choices": ["yes", "no"]} for thing in THINGS[:4]]
    rows = [json.dumps({**row, "answer": number % 2}) for number, row in enumerate(asked)]
    questions.write_text("\n".join(rows))
    return StudyFiles(
        run=str(run),
        positive=_written(folder / "positive.jsonl", positive),
        negative=_written(folder / "negative.jsonl", negative),
        prompts=_written(folder / "prompts.jsonl", ["He said", "They saw a", "Why not"]),
        neutral=_written(folder / "neutral.jsonl", neutral),
        questions=(str(questions),),
    )


@pytest.fixture
def make_config(study_files: StudyFiles, tmp_path: Path) -> MakeConfig:
    """Settings of a study of the tiny run; what is given wins."""

    def make(**given: Any) -> StudyConfig:
        settings: dict[str, Any] = {
            **vars(study_files),
            "out": str(tmp_path / "out"),
            "continuations": 2,
            "max_new_tokens": 4,
            "batch_size": 2,
            "tuning_size": 2,
            "draws": 2,
            "features": 2,
            "group": "8",
            "lineas_steps": 2,
            "most_evaluations": 3,
            "shots": 1,
            "scorer": ("toxicity-ngrams",),
            "cost": ("kl=0.3",),
            "device": "cpu",
        }
        return StudyConfig(**{**settings, **given})

    return make
