"""Two tiny dictionaries of one site, of which the wider one splits a direction of the other."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae import LanguageModel
from sparsteer.steering.widths.config import WidthsConfig

from ...tiny_runs import cache_of_texts, random_topk

INSULTS = ("fool", "idiot", "clown", "donkey", "liar", "crook", "brute", "pest")
THINGS = ("river", "garden", "window", "bridge", "kettle", "meadow", "candle", "ladder")
QUESTION = {"question": "What is wet?", "choices": ["water", "stone"], "answer": 0}

MakeConfig = Callable[..., WidthsConfig]


@dataclass(frozen=True)
class WidthsFiles:
    """Where the runs, their cache and the texts lie."""

    runs: tuple[str, ...]
    cache: str
    positive: str
    negative: str
    prompts: str
    neutral: str
    questions: tuple[str, ...]


def rows_of(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="session")
def widths_files(
    tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> WidthsFiles:
    folder = tmp_path_factory.mktemp("widths")
    positive = [f"you {a} of a {b}!" for a in INSULTS for b in INSULTS[:4] if a != b]
    negative = [f"the {a} by the {b}." for a in THINGS for b in THINGS[:4] if a != b]
    neutral = [
        f"In the {a} is one {b}, and it is old." for a, b in zip(THINGS, INSULTS, strict=True)
    ]
    # The wider one is named first.
    for name, n_latents in (("wide", 96), ("narrow", 40)):
        sae = random_topk(tiny_model, n_latents, k=6, seed=n_latents)
        sae.b_enc.data -= 0.1
        sae.save(folder / "runs" / name / "sae")
    cache = cache_of_texts(
        folder,
        tiny_model,
        [*positive, *negative, *neutral],
        tokens=2_000,
        context_length=24,
        batch_size=8,
        shard_rows=400,
    )

    def texts(name: str, own: Sequence[str]) -> str:
        return rows_of(folder / f"{name}.jsonl", [{"text": text} for text in own])

    return WidthsFiles(
        runs=(str(folder / "runs"),),
        cache=str(cache),
        positive=texts("positive", positive),
        negative=texts("negative", negative),
        prompts=texts("prompts", ["He said", "They saw a", "Why not"]),
        neutral=texts("neutral", neutral),
        questions=(rows_of(folder / "questions.jsonl", [QUESTION]),),
    )


@pytest.fixture
def make_config(widths_files: WidthsFiles, tmp_path: Path) -> MakeConfig:
    """Settings of a small comparison of the two; what is given wins."""

    def make(**given: Any) -> WidthsConfig:
        settings: dict[str, Any] = {
            **vars(widths_files),
            "out": str(tmp_path / "out"),
            "small": True,
            "continuations": 2,
            "max_new_tokens": 4,
            "draws": 2,
            "group": "3",
            "scorer": ("toxicity-ngrams",),
            "cost": ("kl=0.3",),
            "device": "cpu",
        }
        return WidthsConfig(**{**settings, **given})

    return make
