"""The parts of the suite on what latents mean, on tiny dictionaries of the tiny model."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import InputError, LanguageModel, SparseAutoencoder, TopKConfig
from sparsteer.steering.features import BuildConfig, build_index
from sparsteer.steering.suite.part import Measured, Part, SuiteContext
from sparsteer.steering.suite.parts.absorption import ABSORPTION
from sparsteer.steering.suite.parts.judge import JUDGE, JudgeSettings
from sparsteer.steering.suite.parts.meaning import MEANING
from sparsteer.steering.suite.parts.prefixes import PREFIXES
from sparsteer.steering.suite.parts.stability import STABILITY
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.evaluation.config import EvalSettings
from sparsteer.training.evaluation.latents.meaning_config import MeaningSettings
from sparsteer.training.evaluation.subjects import Subject

from ...tiny_runs import SITE, cache_of_texts, random_sae, random_topk
from ..labels.chat_stand_in import chat_stand_in

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of random letters, half of it held out."""
    source = random.Random(2)
    texts = ["".join(source.choices("abcde fgh", k=40)) for _ in range(160)]
    return cache_of_texts(
        tmp_path_factory.mktemp("parts"),
        tiny_model,
        texts,
        context_length=24,
        held_out_fraction=0.5,
    )


def measured(
    part: Part,
    subjects: Sequence[Subject],
    folder: Path,
    model: LanguageModel,
    *,
    options: Any = None,
    seeds: tuple[tuple[Subject, ...], ...] = (),
    contexts: int = 4,
) -> Sequence[Measured]:
    settings = EvalSettings(cache=str(folder), contexts=contexts, rows=400, device="cpu")
    context = SuiteContext(
        subjects=tuple(subjects),
        seeds=seeds,
        cache=ActivationCache(folder),
        settings=settings,
        options=options,
        seed=0,
        model=lambda: model,
    )
    found = part.measure(context)
    assert len(found) == len(subjects)
    for one in found:
        json.dumps(dict(one.details), allow_nan=False)
    return found


def subject(sae: SparseAutoencoder, path: str = "run") -> Subject:
    return Subject(path, sae, SITE, None)


def values_of(found: Measured) -> dict[str, float | None]:
    return {figure.name: figure.value for figure in found.figures}


def test_meaning_has_figures_with_intervals(folder: Path, tiny_model: LanguageModel) -> None:
    subjects = [subject(random_topk(tiny_model, 24)), subject(random_topk(tiny_model, 30, seed=2))]
    options = MeaningSettings(latents=10, contexts=40, examples=4)
    found = measured(MEANING, subjects, folder, tiny_model, options=options)
    for one in found:
        explained = next(f for f in one.figures if f.name == "token_explained")
        assert explained.interval is not None and explained.value is not None
        assert explained.interval[0] <= explained.value <= explained.interval[1]
        assert "top_beyond_token" in values_of(one)
    (without,) = measured(MEANING, subjects[:1], folder, tiny_model, options=options, contexts=0)
    assert "top_beyond_token" not in values_of(without)


def test_stability_is_of_the_seeds_alone(folder: Path, tiny_model: LanguageModel) -> None:
    one = random_topk(tiny_model, 24)
    same = random_topk(tiny_model, 24)
    pair = (subject(one, "a"), subject(same, "b"))
    alone = subject(random_topk(tiny_model, 30, seed=7), "c")
    found = measured(STABILITY, [*pair, alone], folder, tiny_model, seeds=(pair,))
    for member in found[:2]:
        assert values_of(member)["matched"] == pytest.approx(1, abs=1e-5)
        assert values_of(member)["matched_above_0.9"] == 1
    assert found[0].details["pairs"][0]["other"] == "b"
    assert not found[2].figures and not found[2].details


def test_prefixes_are_of_nested_ones_and_what_stands_beside(
    folder: Path, tiny_model: LanguageModel
) -> None:
    nested = random_sae(tiny_model, TopKConfig(tiny_model.d_model, 24, 4, prefixes=(6, 12)), seed=1)
    beside = random_topk(tiny_model, 12)
    with torch.no_grad():
        beside.W_dec.copy_(nested.W_dec[:12])
    subjects = [subject(nested, "nested"), subject(beside, "beside")]
    found = measured(PREFIXES, subjects, folder, tiny_model)
    assert [one["latents"] for one in found[0].details["prefixes"]] == [3, 6, 8, 12, 17, 24]
    assert [one["sae"] for one in found[0].details["others"]] == ["beside"]
    assert set(found[0].details["splitting"]) == {"6", "12"}
    assert "loss_recovered_24" in values_of(found[0]) and not found[1].figures


def test_absorption_says_why_it_says_nothing(folder: Path, tiny_model: LanguageModel) -> None:
    """A tokenizer of single bytes has no words."""
    (found,) = measured(ABSORPTION, [subject(random_topk(tiny_model, 24))], folder, tiny_model)
    assert values_of(found)["absorbed"] is None and values_of(found)["letters"] == 0
    assert "probe" in found.warnings[0]


def test_a_judge_is_asked_about_runs_with_an_index(
    folder: Path, tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    sae = random_topk(tiny_model, 24)
    sae.save(tmp_path / "run" / "sae")
    config = BuildConfig(run=str(tmp_path / "run"), cache=str(folder), device="cpu")
    build_index(config, model=tiny_model)
    subjects = [subject(sae, str(tmp_path / "run")), Subject("raw", sae, SITE, None, "raw")]
    with pytest.raises(InputError, match="endpoint"):
        measured(JUDGE, subjects, folder, tiny_model, options=JudgeSettings())
    with chat_stand_in() as chat:
        chat.labels = lambda text: "[1, 3, 5]"
        options = JudgeSettings(endpoint=chat.url, features=4, pairs=3)
        found = measured(JUDGE, subjects, folder, tiny_model, options=options)
    assert found[0].details["answered"] == 4 and not found[1].figures
    assert 0 <= (values_of(found[0])["recognized"] or 0) <= 1
