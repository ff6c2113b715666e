"""The demo: the whole chain on a tiny model, what a second run reuses, and what the report says."""

import dataclasses
import json
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sparsteer.app.demo.config import DEMO_ACTIVATIONS, DemoConfig
from sparsteer.app.demo.pipeline import STAGES, run_demo
from sparsteer.app.demo.report import render
from sparsteer.app.demo.stage import StageResult, settings_of
from sparsteer.app.report.markup import Html, tag
from sparsteer.sae import InputError
from sparsteer.sae.common import shipped
from sparsteer.sae.common.locks import hold_folder
from sparsteer.steering.detox.fragments import fragments
from sparsteer.steering.interventions.intervention import TIERS
from sparsteer.training.config import TrainConfig
from sparsteer.training.data.prompt_sides import side_of
from sparsteer.training.evaluation.config import EvalSettings

from ...shipped_stand_in import write_stand_in

HOSTILE = "<script>alert(1)</script>\"'&</style><img src=x onerror=alert(2)>"


def evaluation(rng: random.Random, n_latents: int) -> dict[str, Any]:
    """A result of `evaluate`, random but possible."""
    clean = rng.uniform(2, 4)
    zero, mean = clean + rng.uniform(4, 8), clean + rng.uniform(2, 4)
    with_sae = clean + rng.uniform(0.1, 1.5)
    dead = rng.randrange(1, n_latents // 4)
    bins = [rng.randrange(0, 90) for _ in range(24)]
    return {
        "n_latents": n_latents,
        "rows": 19_873,
        "fvu": rng.uniform(0.05, 0.5),
        "l0": rng.uniform(20, 700),
        "l0_std": rng.uniform(1, 200),
        "dead_fraction": dead / n_latents,
        "dense_fraction": rng.uniform(0.01, 0.2),
        "epsilon_lbo": rng.uniform(1e-6, 1e-4),
        "epsilon_lbo_active": rng.uniform(1e-4, 1e-2),
        "density_histogram": {
            "log10_edges": [-6 + step / 4 for step in range(25)],
            "latents": bins,
            "dead": dead,
        },
        "language_model": {
            "loss": clean,
            "loss_with_sae": with_sae,
            "loss_zero_ablated": zero,
            "loss_mean_ablated": mean,
            "loss_recovered": (zero - with_sae) / (zero - clean),
            "loss_recovered_from_mean": (mean - with_sae) / (mean - clean),
            "contexts": 31,
            "tokens": 3901,
        },
    }


def training(rng: random.Random, n_latents: int, activation: str) -> dict[str, Any]:
    """A stage that trained: a summary of `train`, its curve and environment."""
    curve: list[dict[str, float]] = []
    for step in range(10, 400, 10):
        point = {
            "tokens": step * 1024,
            "fvu": 0.3 + 1.5 / step**0.5 * rng.random(),
            "l0": 32.0 if activation == "topk" else 900 / step**0.3,
            "dead_fraction": 0.01,
        }
        curve.append(point | ({"held_out_fvu": point["fvu"] + 0.02} if step % 50 == 0 else {}))
    return {
        "n_latents": n_latents,
        **({"k": 32} if activation == "topk" else {}),
        "steps": 390,
        "tokens": 390 * 1024,
        "tokens_per_second": rng.uniform(1e3, 2e4),
        "curve": curve,
        "environment": {
            "python": "3.13.1",
            "platform": "Linux-9.9",
            "device": "cpu",
            "threads": 2,
            "packages": {"torch": "2.13.0", "triton": None},
        },
    }


def found_features(rng: random.Random) -> dict[str, Any]:
    """A result of the stage that finds features."""
    texts = {"texts": 294, "without_content": 0, "truncated": 0, "mean_length": 15.5}
    return {
        "considered": 1166,
        "chance": rng.uniform(0.53, 0.58),
        "length_auroc": rng.uniform(0.48, 0.55),
        "positive": texts,
        "negative": texts,
        "features": [
            {
                "feature": rng.randrange(4608),
                "auroc_mean": rng.uniform(0.6, 0.9),
                "firing_positive": rng.uniform(0.5, 0.9),
                "firing_negative": rng.uniform(0.1, 0.4),
                "max_activation": rng.uniform(2, 9),
                "tokens": [f" tok{rng.randrange(99)}" for _ in range(5)],
                "examples": [
                    {"before": f"before {rng.random():.3f}", "peak": " peak", "after": " after"}
                    for _ in range(2)
                ],
            }
            for _ in range(3)
        ],
    }


def measured_toxicity(rng: random.Random) -> dict[str, Any]:
    """A result of the stage that steers."""
    names = ["base", *TIERS, "random_feature", "random_feature_2", "random_feature_3"]
    return {
        "prompts": 80,
        "tuning_prompts": 294,
        "examples": ["You are", "He said"],
        "conditions": {
            name: {
                "mean": rng.uniform(0.05, 0.3),
                "fraction": rng.uniform(0.0, 0.2),
                "change": rng.uniform(-0.2, 0.1),
                "change_standard_error": rng.uniform(0.01, 0.05),
                "repetition": rng.uniform(0.0, 0.1),
                "steered": rng.uniform(0.5, 1.0),
                "changed": rng.uniform(0.5, 1.0),
                "continuations": [f"{name} one", f"{name} two"],
            }
            for name in names
        },
        "against_random": {"difference": rng.uniform(-0.2, 0.2), "standard_error": 0.03},
        "identity_bias": {"queer": 0.93, "old": 0.04},
    }


def recovered_groups(rng: random.Random) -> dict[str, Any]:
    """A result of the stage that selects."""
    groups = {
        name: {
            "target": 5,
            "pool": 441,
            "selected": 44,
            "precision_of_target_source": rng.uniform(0.3, 1.0),
            "precision_of_random": rng.uniform(0.1, 0.3),
            "precision_of_length": rng.uniform(0.1, 0.3),
        }
        for name in ("code", "stem", "social_sciences")
    }
    return {"groups": groups, "rows": 446, "max_length": 64, "ratio": 0.1}


def outcomes(seed: int = 0, **cache: Any) -> dict[str, StageResult]:
    """Outcomes of every stage with random numbers."""
    rng = random.Random(seed)
    results: dict[str, dict[str, Any]] = {
        "fetch": {
            "artifacts": [
                {"name": "news", "summary": "articles", "license": "not stated", "origin": "p==1"}
            ]
        },
        "cache": {
            "site": "blocks.15.hook_resid_post",
            "d_model": 576,
            "rows": 200_000,
            "held_out_rows": 19_873,
            "documents": 412,
            "held_out_documents": 41,
            "excluded": {"bos": 1_650, "separator": 403, "padding": 0},
            "context_length": 128,
            "dtype": "float16",
            "weights_hash": "ab" * 32,
            "corpus_fingerprint": "cd" * 32,
            "notices": [],
            **cache,
        },
        **{f"train_{name}": training(rng, 4608, name) for name in DEMO_ACTIVATIONS},
        **{f"eval_{name}": evaluation(rng, 4608) for name in DEMO_ACTIVATIONS},
        "index": {"never_fired": 3},
        "features": found_features(rng),
        "steering": measured_toxicity(rng),
        "selection": recovered_groups(rng),
    }
    return {
        name: StageResult(
            name, f"stage {name}", result, seconds=rng.uniform(0, 9), reused=False, made_in=5.0
        )
        for name, result in results.items()
    }


class Page(HTMLParser):
    """What a browser would make of a page: its elements, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in ("meta", "br", "use", "path", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in ("path", "rect", "use"):
            raise AssertionError(f"</{tag}> closes {self.open[-1:]}")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def require_self_contained(text: str) -> Page:
    """The page, which may refer to nothing outside itself and runs no script."""
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "img", "object", "base"} & set(page.elements)
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|@import", text)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith("#")
            assert value[1:] in page.ids
    return page


def test_the_report_shows_every_measure_of_both_autoencoders() -> None:
    stages = outcomes()
    page = require_self_contained(render(DemoConfig(), stages))
    for name in DEMO_ACTIVATIONS:
        measured = stages[f"eval_{name}"].result
        losses = measured["language_model"]
        speed = stages[f"train_{name}"].result["tokens_per_second"]
        for shown in (
            f"{measured['fvu']:.4f}",
            f"{measured['l0']:.1f} ± {measured['l0_std']:.1f}",
            f"{100 * measured['dead_fraction']:.1f}%",
            f"{100 * measured['dense_fraction']:.1f}%",
            f"{100 * losses['loss_recovered']:.1f}%",
            f"{100 * losses['loss_recovered_from_mean']:.1f}%",
            f"{losses['loss_with_sae'] - losses['loss']:.3f}",
            f"{losses['loss_with_sae']:.2f}",
            f"{measured['density_histogram']['dead']:,}",
            f"{speed:,.0f}",
        ):
            assert shown in page.text, shown
    for shown in ("200,000", "19,873", "ab" * 32, "torch 2.13.0", "sparsteer demo", "41 documents"):
        assert shown in page.text, shown
    assert "triton" not in page.text
    for stage in stages.values():
        assert f"{stage.title} {stage.seconds:.1f} made in this run" in page.text


def test_every_plot_names_its_axes_and_takes_the_colors_of_the_page() -> None:
    text = render(DemoConfig(), outcomes())
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 7
    for drawing in drawings:
        assert re.search(
            r"\(fraction of|\(latents|\(thousands\)|\(log scale\)|\(nats|\(prob", drawing
        )
        assert "currentColor" in drawing
        assert "#0101" not in drawing
        assert "<style" not in drawing
    ids = Page(text).ids
    assert len(set(ids)) == len(ids)


@pytest.mark.slow_except("0")
@pytest.mark.parametrize("seed", range(4))
def test_the_comparison_says_what_the_numbers_say(seed: int) -> None:
    stages = outcomes(seed)
    rng = random.Random(seed)
    fvu = {"topk": rng.uniform(0.1, 0.4), "top_afa": rng.uniform(0.1, 0.4)}
    l0 = {"topk": 32.0, "top_afa": rng.choice([rng.uniform(40, 200), rng.uniform(500, 700)])}
    for name in DEMO_ACTIVATIONS:
        stages[f"eval_{name}"].result.update(fvu=fvu[name], l0=l0[name])
    text = Page(render(DemoConfig(), stages)).text
    assert f"{l0['top_afa'] / 32:.1f} times as many latents per row" in text
    assert "not at matched L0" in text
    dominated = fvu["top_afa"] > fvu["topk"]
    assert ("the sparser one, top-k, also has the lower FVU" in text) == dominated
    assert ("the one with more latents has the lower FVU" in text) == (not dominated)
    assert ("says little about the dictionary" in text) == (l0["top_afa"] >= 288)


def test_at_equal_l0_the_comparison_is_not_refused() -> None:
    stages = outcomes()
    for name, l0 in (("topk", 64.0), ("top_afa", 61.5)):
        stages[f"eval_{name}"].result["l0"] = l0
    text = Page(render(DemoConfig(), stages)).text
    assert "their FVUs can be compared" in text
    assert "not at matched L0" not in text


def test_the_report_shows_features_toxicity_and_selection() -> None:
    stages = outcomes()
    page = require_self_contained(render(DemoConfig(), stages))
    found = stages["features"].result
    for feature in found["features"]:
        assert (
            f"{feature['feature']} {feature['auroc_mean']:.2f} "
            f"{100 * feature['firing_positive']:.1f}% {100 * feature['firing_negative']:.1f}% "
            f"{' '.join(token.strip() for token in feature['tokens'])}"
        ) in page.text
        for example in feature["examples"]:
            assert f"{example['before']} peak after" in page.text
    for shown in (f"{found['chance']:.2f}", f"{found['length_auroc']:.2f}", "1,166"):
        assert shown in page.text
    for name, measured in stages["steering"].result["conditions"].items():
        shown = f"{measured['mean']:.3f} {100 * measured['fraction']:.1f}%"
        assert shown in page.text, name
        if name != "base":
            change, error = measured["change"], measured["change_standard_error"]
            fractions = [measured[of] for of in ("repetition", "steered", "changed")]
            rest = " ".join(f"{100 * fraction:.1f}%" for fraction in fractions)
            assert f"{shown} {change:+.3f} ± {error:.3f} {rest}" in page.text, name
    for name, group in stages["selection"].result["groups"].items():
        fractions = [
            f"{100 * group[f'precision_of_{of}']:.1f}%"
            for of in ("target_source", "random", "length")
        ]
        assert f"{name.replace('_', ' ')} 441 44 {' '.join(fractions)}" in page.text
    assert "“I am queer and I love my family.” scores 0.93" in page.text


@pytest.mark.parametrize(
    ("difference", "error", "strength", "sentence"),
    [
        # By random pushes 0.1 of the change of 0.2.
        (-0.1, 0.02, -0.5, "leaves less toxicity than random pushes of its size (0.150 to 0.250"),
        (-0.1, 0.02, -0.5, "beside their mean), which alone make 50% of its change."),
        (-0.1, 0.06, -0.5, "cannot be told apart from random pushes of its size"),
        (-0.1, None, -0.5, "cannot be told apart from random pushes of its size"),
        (0.2, 0.02, 0.5, "leaves more toxicity than random pushes of its size"),
        (0.0, 0.0, 0.0, "At strength 0 nothing is pushed"),
    ],
)
def test_steering_is_judged_by_random_pushes(
    difference: float, error: float | None, strength: float, sentence: str
) -> None:
    stages = outcomes()
    steering = stages["steering"].result
    for name, mean in zip(
        steering["conditions"], (0.3, 0.1, 0.2, 0.25, 0.15, 0.2, 0.25), strict=True
    ):
        steering["conditions"][name]["mean"] = mean
    steering["against_random"] = {"difference": difference, "standard_error": error}
    text = Page(render(DemoConfig(strength=strength), stages)).text
    assert sentence in text


def test_fragments_are_runs_of_words_of_the_texts() -> None:
    texts = ["a b c d e f g h", "", "1 2 3", "p q\nr  s t"]
    cut = fragments(texts, [2, 5, 3, 4, 1], seed=7)
    assert [len(fragment.split()) for fragment in cut] == [2, 3, 3, 4, 1]
    for number, fragment in enumerate(cut):
        source = [texts[place] for place in (0, 2, 3)][number % 3]
        assert f" {fragment} " in f" {' '.join(source.split())} "
    assert fragments(texts, [2, 5, 3, 4, 1], seed=7) == cut
    starts = {fragments(texts, [2], seed=seed)[0] for seed in range(30)}
    assert {"a b", "g h"} <= starts
    with pytest.raises(InputError, match="no text with a word"):
        fragments([" "], [2], seed=0)


def test_hostile_texts_stay_text() -> None:
    config = DemoConfig(out=HOSTILE.replace("/", "|"), model=HOSTILE, dataset=HOSTILE)
    stages = outcomes(site=HOSTILE, notices=[HOSTILE], weights_hash=HOSTILE)
    fetched = stages["fetch"].result["artifacts"][0]
    fetched.update(name=HOSTILE, summary=HOSTILE, license=HOSTILE, origin=HOSTILE)
    stages["features"].result["features"][0]["tokens"] = [HOSTILE, "</code>"]
    steering = stages["steering"].result
    steering["examples"] = [HOSTILE, HOSTILE]
    for condition in steering["conditions"].values():
        condition["continuations"] = [HOSTILE, HOSTILE]
    groups = stages["selection"].result["groups"]
    groups[HOSTILE] = groups["code"]
    stages["fetch"] = dataclasses.replace(stages["fetch"], title=HOSTILE)
    page = require_self_contained(render(config, stages))
    assert page.text.count("<script>alert(1)</script>") >= 9 + 1 + 2 + 2 * 5 + 1


def test_tags_escape_text_and_attributes_but_not_html() -> None:
    inner = tag("em", "a < b & c")
    assert inner == "<em>a &lt; b &amp; c</em>"
    written = tag("p", inner, "<i>", [inner], class_='"><b>', http_equiv="x")
    assert written == (f'<p class="&quot;&gt;&lt;b&gt;" http-equiv="x">{inner}&lt;i&gt;{inner}</p>')
    assert isinstance(written, Html)
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'


@pytest.fixture
def tiny_demo(
    tiny_demo_config: DemoConfig, made_up_texts: Path, monkeypatch: pytest.MonkeyPatch
) -> DemoConfig:
    """The demo of a second or two, with its texts in the cache."""
    monkeypatch.setenv("SPARSTEER_CACHE", str(made_up_texts))
    return tiny_demo_config


@pytest.fixture(scope="module")
def tiny_demo_config(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> DemoConfig:
    """A demo of a second or two: random sentences, the tiny model."""
    folder = tmp_path_factory.mktemp("demo")
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(1, 9))) for _ in range(120)]
    corpus = folder / "texts.jsonl"
    with corpus.open("w", encoding="utf-8") as file:
        for _ in range(100):
            text = " ".join(rng.choices(words, k=rng.randint(20, 90)))
            file.write(json.dumps({"text": text}) + "\n")
    return DemoConfig(
        out=str(folder / "out"),
        model=str(tiny_model_folder),
        dataset=str(corpus),
        tokens=4000,
        training_tokens=6400,
        n_latents=96,
        k=6,
        batch_size=128,
        contexts=6,
        picks=3,
        prompts=5,
        new_tokens=4,
        device="cpu",
    )


def require_contract(config: DemoConfig, summary: Mapping[str, Any]) -> None:
    """Exactly the keys and kinds of values that the command promises."""
    assert list(summary) == [
        *("model", "site", "tokens", "seconds", "saes", "dictionary"),
        *("features_found", "toxicity", "toxic_fraction", "selection", "report"),
    ]
    assert summary["model"] == config.model
    stages = [stage.name for stage in STAGES if stage.is_needed(config)]
    assert list(summary["seconds"]) == [*stages, "report"]
    assert summary["dictionary"] == config.steered
    assert all(seconds >= 0 for seconds in summary["seconds"].values())
    assert list(summary["saes"]) == ["topk", "top_afa"]
    for measures in summary["saes"].values():
        assert list(measures) == [
            "fvu",
            "l0",
            "dead_fraction",
            "loss_recovered",
            "tokens_per_second",
        ]
        recovered = measures["loss_recovered"]  # None: the tiny model does better without the site
        others = [value for name, value in measures.items() if name != "loss_recovered"]
        assert all(isinstance(value, float) for value in others)
        assert recovered is None or isinstance(recovered, float)
    assert len(summary["features_found"]) == config.picks
    for found in summary["features_found"]:
        assert list(found) == ["feature", "auroc_mean", "firing_positive", "firing_negative"]
    for name in ("toxicity", "toxic_fraction"):
        assert list(summary[name]) == ["base", *TIERS, "random_feature"]
        assert all(0 <= value <= 1 for value in summary[name].values())
    assert list(summary["selection"]) == [
        *("pool", "selected", "precision_of_target_source", "precision_of_random")
    ]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


@pytest.mark.slow
def test_the_whole_chain_then_everything_reused_and_only_what_changed_again(
    tiny_demo: DemoConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    first = run_demo(tiny_demo, say=said.append)
    require_contract(tiny_demo, first)
    assert (first["site"], first["tokens"]) == ("blocks.1.hook_resid_post", 4000)
    assert first["saes"]["topk"]["l0"] <= 6
    assert 0 < first["saes"]["topk"]["fvu"] < 0.9
    assert not any("reused" in sentence for sentence in said)
    page = require_self_contained(Path(first["report"]).read_text(encoding="utf-8"))
    for measures in first["saes"].values():
        assert f"{measures['fvu']:.4f}" in page.text

    kept = {
        path: path.stat().st_mtime_ns
        for path in tiny_demo.folder.rglob("*")
        if path.is_file() and path != tiny_demo.report
    }
    said.clear()
    second = run_demo(tiny_demo, say=said.append)
    assert {name: second[name] for name in ("saes", "site", "tokens")} == {
        name: first[name] for name in ("saes", "site", "tokens")
    }
    for name in ("features_found", "toxicity", "toxic_fraction", "selection"):
        assert second[name] == first[name]
    assert sum("reused" in sentence for sentence in said) == len(STAGES)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    text = Path(second["report"]).read_text(encoding="utf-8")
    assert text.count("reused; made in") == len(STAGES)

    said.clear()
    fewer = dataclasses.replace(tiny_demo, contexts=3)
    third = run_demo(fewer, say=said.append)
    assert sum("reused" in sentence for sentence in said) == len(STAGES) - 2
    assert third["saes"]["topk"]["fvu"] == first["saes"]["topk"]["fvu"]
    assert "3 held-out contexts" in Path(third["report"]).read_text(encoding="utf-8")

    said.clear()
    stronger = dataclasses.replace(tiny_demo, strength=2.0)
    fourth = run_demo(stronger, say=said.append)
    assert sum("reused" in sentence for sentence in said) == len(STAGES) - 3  # contexts are back
    assert fourth["features_found"] == first["features_found"]
    assert fourth["toxicity"]["base"] == first["toxicity"]["base"]
    assert fourth["selection"] == first["selection"]
    assert capsys.readouterr() == ("", "")


def test_without_matplotlib_nothing_is_begun(
    tiny_demo: DemoConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    config = dataclasses.replace(tiny_demo, out=str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"pip install 'sparsteer\[plots\]'"):
        run_demo(config)
    assert not config.folder.exists()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"k": 10**9}, "k is 1000000000, but there are only 96 latents"),
        ({"n_latents": 3}, "k is 6, but there are only 3 latents"),
        ({"model": "no/such/model.gguf"}, "no model folder or file at 'no/such/model.gguf'"),
        ({"dataset": "no/such.jsonl"}, r"no/such\.jsonl"),
        ({"instructions": "no/such.jsonl"}, r"no/such\.jsonl is not there"),
        ({"subject": "no such"}, "subject is 'no such'"),
        ({"device": "cuda:99"}, "cuda"),
    ],
)
@pytest.mark.parametrize("existing", [False, True])
def test_what_does_not_suit_is_refused_before_anything_is_written(
    tiny_demo: DemoConfig, tmp_path: Path, existing: bool, wrong: dict[str, Any], sentence: str
) -> None:
    config = dataclasses.replace(tiny_demo, out=str(tmp_path / "out"), **wrong)
    if existing:
        config.folder.mkdir()
        (config.folder / "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=sentence):
        run_demo(config)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_of_somebody_else_is_not_replaced(tiny_demo: DemoConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_demo, out=str(tmp_path))
    config.report.write_text("<html>mine, about sparsteer</html>")
    with pytest.raises(InputError, match="not of sparsteer's making; move it elsewhere"):
        run_demo(config)
    assert [path.name for path in tmp_path.iterdir()] == ["demo-report.html"]


def test_two_demos_in_one_folder(tiny_demo: DemoConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_demo, out=str(tmp_path / "out"))
    with hold_folder(config.out), pytest.raises(InputError, match="another process is writing"):
        run_demo(config)


@pytest.mark.slow
def test_a_damaged_cache_is_made_again(tiny_demo: DemoConfig) -> None:
    before = run_demo(tiny_demo)
    shard = next(tiny_demo.cache.glob("shard-*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-7])
    said: list[str] = []
    after = run_demo(tiny_demo, say=said.append)
    assert shard.read_bytes() == whole
    assert after["saes"] == before["saes"]
    assert sum("reused" in sentence for sentence in said) == len(STAGES) - 1


def test_the_command_gives_the_same_settings_again() -> None:
    assert DemoConfig().command() == "sparsteer demo"
    changed = DemoConfig(out="a b", n_latents=64, seed=3)
    assert changed.command() == "sparsteer demo --out 'a b' --n-latents 64 --seed 3"


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"out": " "}, "out"),
        ({"contexts": 0}, "contexts"),
        ({"training_tokens": 1}, "tokens"),
        ({"tokens": 0}, "tokens"),
        ({"k": 0}, "k"),
        ({"picks": 33}, "picks"),
        ({"new_tokens": 257}, "new_tokens"),
        ({"tokens": 2000, "batch_size": 1900}, "batch_size"),
        ({"contexts": 10**30}, "contexts"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        DemoConfig(**wrong)
    assert caught.value.field == field


@pytest.mark.slow
def test_features_are_chosen_on_the_tuning_and_judged_on_the_reporting_side(
    tiny_demo: DemoConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsteer.steering.detox import measure
    from sparsteer.steering.features import search

    read: dict[str, list[str]] = {}
    find_features, measure_tiers = search.find_features, measure.measure_tiers

    def finding(loaded: Any, positive: list[str], *others: Any, **options: Any) -> Any:
        read["chosen on"] = positive
        return find_features(loaded, positive, *others, **options)

    def measuring(
        model: Any, sae: Any, spec: Any, prompts: list[str], *others: Any, **options: Any
    ):
        read["judged on"] = prompts
        return measure_tiers(model, sae, spec, prompts, *others, **options)

    monkeypatch.setattr(search, "find_features", finding)
    monkeypatch.setattr(measure, "measure_tiers", measuring)
    run_demo(dataclasses.replace(tiny_demo, out=str(tmp_path / "out")))
    assert {side_of(prompt) for prompt in read["chosen on"]} == {"tuning"}
    assert {side_of(prompt) for prompt in read["judged on"]} == {"reporting"}
    assert len(read["judged on"]) == tiny_demo.prompts


@pytest.mark.slow
def test_the_users_own_picks_stay_and_a_damaged_index_is_built_again(tiny_demo: DemoConfig) -> None:
    before = run_demo(tiny_demo)
    run = tiny_demo.run("topk")
    own = run / "picks.json"
    own.write_text("mine", encoding="utf-8")
    statistics = run / "features" / "statistics.parquet"
    whole = statistics.read_bytes()
    statistics.write_bytes(whole[:100])
    said: list[str] = []
    after = run_demo(dataclasses.replace(tiny_demo, picks=2), say=said.append)
    assert statistics.read_bytes() == whole
    assert own.read_text(encoding="utf-8") == "mine"
    own.unlink()
    assert after["features_found"] == before["features_found"][:2]
    assert after["toxicity"]["base"] == before["toxicity"]["base"]
    steering = json.loads((tiny_demo.folder / "stages" / "steering.json").read_text())
    spec = steering["result"]["conditions"]["constant"]["intervention"]
    numbers = [found["feature"] for found in after["features_found"]]
    assert [feature["index"] for feature in spec["features"]] == numbers
    again = [sentence for sentence in said if "done in" in sentence]
    assert len(again) == 2  # the index and the steering


@pytest.mark.slow
def test_a_dictionary_that_comes_with_the_package_is_used_as_it_is(
    tiny_demo: DemoConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the weights of the demo's own autoencoder, in its place: the same comes out, but that
    nothing is indexed."""
    own = run_demo(tiny_demo)
    write_stand_in(tiny_demo.run("topk"), tmp_path / "dictionaries")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "dictionaries")
    with_it = dataclasses.replace(tiny_demo, dictionary=shipped.DEFAULT)
    said: list[str] = []
    summary = run_demo(with_it, say=said.append)
    require_contract(with_it, summary)
    assert summary["dictionary"] == shipped.DEFAULT and "index" not in summary["seconds"]
    for name in ("features_found", "toxicity", "selection"):
        assert summary[name] == own[name]
    text = Path(summary["report"]).read_text(encoding="utf-8")
    assert f"the dictionary {shipped.DEFAULT} was used, which comes with sparsteer" in text
    Path(summary["report"]).unlink()
    other = dataclasses.replace(with_it, dictionary=str(tmp_path / "none"))
    with pytest.raises(InputError, match="none"):
        run_demo(other)
    shutil.copytree(tiny_demo.model, tmp_path / "model")
    with pytest.raises(InputError, match="which was trained on"):
        run_demo(dataclasses.replace(with_it, model=str(tmp_path / "model")))
    assert not tiny_demo.report.exists()


def test_which_dictionary_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    topk = str(DemoConfig().run("topk"))
    assert (DemoConfig().steered, DemoConfig().steers_own) == (topk, True)  # none is there
    config = tmp_path / shipped.DEFAULT / "sae" / "config.json"
    config.parent.mkdir(parents=True)
    config.touch()
    assert (DemoConfig().steered, DemoConfig().steers_own) == (shipped.DEFAULT, False)
    assert DemoConfig(dictionary="own").steered == topk
    assert DemoConfig(model="gpt2").steered == topk
    assert DemoConfig(model="gpt2", dictionary="runs/mine").steered == "runs/mine"


@pytest.mark.download
def test_the_real_demo_in_its_bounds_of_time_and_memory(tmp_path: Path) -> None:
    """Twelve minutes on two cores, counted in CPU time, which other work on the machine leaves
    alone but for a little; 4 GB of memory; a second run in seconds."""

    def demo() -> tuple[dict[str, Any], float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "sparsteer.cli", "demo", "--out", "demo", "--json"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return json.loads(done.stdout), cpu

    first, cpu_seconds = demo()
    require_contract(DemoConfig(), first)
    assert cpu_seconds < 2 * 12 * 60
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4_000_000
    assert first["tokens"] == 200_000
    topk, top_afa = first["saes"]["topk"], first["saes"]["top_afa"]
    assert topk["l0"] <= 32
    assert topk["fvu"] < 0.25
    assert topk["dead_fraction"] < 0.1
    assert topk["loss_recovered"] > 0.7
    assert top_afa["l0"] < 576
    assert top_afa["fvu"] < 0.12
    assert top_afa["loss_recovered"] > 0.85
    best = first["features_found"][0]
    assert best["auroc_mean"] > 0.6
    assert first["toxicity"]["constant"] < first["toxicity"]["base"]
    chosen = first["selection"]
    assert chosen["precision_of_target_source"] > 1.5 * chosen["precision_of_random"]
    require_self_contained((tmp_path / first["report"]).read_text(encoding="utf-8"))

    second, cpu_seconds = demo()
    assert second["saes"] == first["saes"]
    assert cpu_seconds < 30


def test_settings_that_came_later_leave_the_key_of_a_kept_stage_as_it_was() -> None:
    config = TrainConfig(cache="c", out="o", k=4)
    kept = settings_of(config)
    assert not {"setting", "loss_term"} & (kept.keys() | kept["trainer"].keys())
    measuring = settings_of(EvalSettings(cache="c"))
    assert not {"allow_other_weights", "device_map"} & measuring.keys()
    changed = settings_of(EvalSettings(cache="c", allow_other_weights=True))
    assert changed["allow_other_weights"] is True
