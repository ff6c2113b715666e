"""The part `probing` of the suite, with the tiny model and two made-up tasks."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import LanguageModel
from sparsteer.steering.registries import SUITE_PARTS
from sparsteer.steering.suite.comparing import with_probing_above_pca
from sparsteer.steering.suite.part import SuiteContext
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.evaluation.baselines import baseline
from sparsteer.training.evaluation.config import EvalSettings
from sparsteer.training.evaluation.probing import tasks as probing_tasks
from sparsteer.training.evaluation.probing.config import ProbingSettings
from sparsteer.training.evaluation.probing.result import ProbeScore
from sparsteer.training.evaluation.subjects import Subject

from ...tiny_runs import SITE, cache_of_texts, random_topk

OTHER_SITE = "blocks.0.hook_resid_post"


@pytest.fixture
def two_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of what is fetched."""
    source = random.Random(3)
    rows = [
        {
            "dataset": dataset,
            "text": "".join(source.choices("abcdef", k=8)) + "XY"[number % 2],
            "label": str(number % 2),
        }
        for dataset in ("one", "two")
        for number in range(80)
    ]
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def fetched(name: str, **_: object) -> Path:
        assert name == "probing-tasks"
        return file

    monkeypatch.setattr(probing_tasks, "fetch", fetched)


@pytest.mark.usefixtures("two_tasks")
def test_autoencoders_of_two_sites(tiny_model: LanguageModel, tmp_path: Path) -> None:
    cache = cache_of_texts(tmp_path, tiny_model, ["abc def abc def"] * 20, held_out_fraction=0.0)
    subjects = tuple(
        Subject(f"seed{seed}", random_topk(tiny_model, 24, seed=seed), site, None)
        for seed, site in enumerate((SITE, OTHER_SITE, SITE))
    )
    part = SUITE_PARTS.get("probing")
    assert part.options is ProbingSettings and part.needs_model
    settings = ProbingSettings(tasks=("two", "one"), texts=60, ks=(1, 4), seeds=1)
    context = SuiteContext(
        subjects=subjects,
        seeds=(),
        cache=ActivationCache(cache),
        settings=EvalSettings(cache=str(cache)),
        options=settings,
        seed=0,
        model=lambda: tiny_model,
    )
    found = part.measure(context)
    assert [one.details["site"] for one in found] == [SITE, OTHER_SITE, SITE]
    assert found[0].details["scores"] != found[2].details["scores"]
    assert found[0].details["activation"] == found[2].details["activation"]
    for one in found:
        figures = {figure.name: figure for figure in one.figures}
        shown = [figure.heading for figure in one.figures if figure.in_table]
        assert shown == ["probe 1", "probe 4", "probe of all coordinates"]
        assert {"random_latents_4", "coordinates_1", "above_coordinates_1"} < figures.keys()
        scores = [
            score["accuracy"]
            for score in one.details["scores"]
            if (score["arm"], score["k"]) == ("latents", 4)
        ]
        assert figures["latents_4"].value == pytest.approx(sum(scores) / len(scores))
        assert [task["name"] for task in one.details["tasks"]] == ["two", "one"]
        json.dumps(one.details)


def test_probes_beside_those_of_the_nearest_pca(tiny_model: LanguageModel) -> None:
    def scores(accuracies: list[float]) -> dict[str, Any]:
        rows = [
            ProbeScore(f"task {place // 2}", "latents", 1, place % 2, accuracy, 0.5, (0,))
            for place, accuracy in enumerate(accuracies)
        ]
        details = {"scores": [dataclasses.asdict(row) for row in rows]}
        return {"probing": {"figures": {}, "details": details}}

    sae = random_topk(tiny_model, 24)
    subjects = [Subject("own", sae, SITE, None)]
    for k in (1, sae.config.latents_of_row or 0, 20):
        beside = baseline("pca", torch.randn(64, sae.config.d_model), l0=min(k, sae.config.d_model))
        subjects.append(Subject(f"pca {k}", beside, SITE, None, baseline="pca"))
    found = [scores([0.9, 0.8, 0.7, 0.6]), *(scores([0.5, 0.5, 0.6, n / 10]) for n in (1, 6, 9))]
    compared = with_probing_above_pca(subjects, found)
    figure = compared[0]["probing"]["figures"]["above_pca_1"]
    assert figure["value"] == pytest.approx(0.2)
    assert figure["interval"][0] <= figure["value"] <= figure["interval"][1]
    assert compared[1:] == found[1:]
    assert with_probing_above_pca(subjects[:1], found[:1]) == found[:1]
