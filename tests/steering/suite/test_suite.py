"""The suite with parts that count: what is measured, kept, measured again, and found in the end."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.common.validation import require_positive_integer
from sparsteer.steering.registries import SUITE_PARTS
from sparsteer.steering.suite import subjects as suite_subjects
from sparsteer.steering.suite.config import SuiteSettings, parsed_part_settings
from sparsteer.steering.suite.part import Figure, Measured, Part, SuiteContext
from sparsteer.steering.suite.runner import run_suite, suite_folder
from sparsteer.steering.suite.seeds import common_name, over_seeds, seed_groups
from sparsteer.training.config import TrainConfig
from sparsteer.training.evaluation.config import EvalSettings
from sparsteer.training.initialize import initialize_from_rows
from sparsteer.training.train import train
from sparsteer.training.trainer_config import TrainerConfig


@dataclass(frozen=True)
class CountOptions:
    """Settings of the counting part."""

    times: int = 1

    def __post_init__(self) -> None:
        require_positive_integer("times", self.times)


@dataclass
class Counter:
    """A part that says how many latents an autoencoder has, and remembers whom it measured."""

    calls: list[list[str]] = field(default_factory=list[list[str]])
    seeds: list[list[list[str]]] = field(default_factory=list[list[list[str]]])

    def measure(self, context: SuiteContext) -> Sequence[Measured]:
        self.calls.append([subject.path for subject in context.subjects])
        self.seeds.append([[one.path for one in group] for group in context.seeds])
        context.progress(1, 1)
        return [
            Measured(
                figures=[
                    Figure(
                        name="latents",
                        value=float(subject.sae.config.n_latents * context.options.times),
                        heading="latents",
                        interval=(1.0, float("inf")),
                    )
                ],
                details={"seed": context.seed, "nan": float("nan")},
            )
            for subject in context.subjects
        ]


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Registered as the part `count`, and as `count_together`."""
    made = Counter()
    monkeypatch.setattr(SUITE_PARTS, "_values", {})
    usual = Part(measure=made.measure, heading="count", reading="-", options=CountOptions)
    SUITE_PARTS.register("count", dataclasses.replace(usual, depends_on=("cache", "rows")))
    SUITE_PARTS.register("count_together", dataclasses.replace(usual, together=True))
    return made


@pytest.fixture
def saes(tmp_path: Path) -> list[str]:
    paths: list[str] = []
    for n_latents in (20, 30):
        sae = SparseAutoencoder(TopKConfig(12, n_latents, 3))
        sae.save(tmp_path / f"wide{n_latents}")
        paths.append(str(tmp_path / f"wide{n_latents}"))
    return paths


@pytest.fixture
def measure(planted_cache: Path, saes: list[str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the suite without the language model on the planted cache."""

    def run(
        chosen: Sequence[str] = saes, part: str = "count", rows: int = 200, **suite: Any
    ) -> dict[str, Any]:
        usual: dict[str, Any] = {"baselines": ("none",), "suite_out": str(tmp_path / "out")}
        settings = EvalSettings(cache=str(planted_cache), contexts=0, rows=rows, device="cpu")
        return run_suite(chosen, settings, SuiteSettings(parts=(part,), **usual | suite))

    return run


def latents(result: dict[str, Any], part: str = "count") -> list[float]:
    return [one["parts"][part]["figures"]["latents"]["value"] for one in result["autoencoders"]]


def test_what_is_measured_is_not_measured_again(
    counter: Counter, measure: Callable[..., dict[str, Any]], saes: list[str], tmp_path: Path
) -> None:
    first = measure(saes[:1])
    assert latents(first) == [20]
    details = first["autoencoders"][0]["parts"]["count"]
    assert details["details"] == {"seed": 0, "nan": None}
    assert details["figures"]["latents"]["interval"] == [1.0, None]
    both = measure()
    assert latents(both) == [20, 30]
    assert [one["parts"]["count"]["reused"] for one in both["autoencoders"]] == [True, False]
    assert counter.calls == [saes[:1], saes[1:]]
    assert measure(saes[::-1])["autoencoders"][0]["name"] == "wide30"
    assert len(counter.calls) == 2
    assert json.loads((tmp_path / "out" / "suite.json").read_text())["parts"]["count"]


@pytest.mark.parametrize(
    "change", [{"rows": 100}, {"seed": 1}, {"part_setting": ("count.times=2",)}]
)
def test_what_a_result_depends_on_is_part_of_its_key(
    counter: Counter, measure: Callable[..., dict[str, Any]], change: dict[str, Any]
) -> None:
    measure()
    measure(**change)
    assert len(counter.calls) == 2
    measure()
    measure(**change)
    assert len(counter.calls) == 2


def test_changed_weights_are_measured_again(
    counter: Counter, measure: Callable[..., dict[str, Any]], saes: list[str]
) -> None:
    measure()
    SparseAutoencoder(TopKConfig(12, 20, 3), seed=1).save(saes[0])
    measure()
    assert counter.calls[1] == saes[:1]


def test_a_part_that_compares_measures_all_of_them(
    counter: Counter, measure: Callable[..., dict[str, Any]], saes: list[str]
) -> None:
    measure(saes[:1], part="count_together")
    measure(part="count_together")
    assert counter.calls == [saes[:1], saes]
    measure(part="count_together")
    assert len(counter.calls) == 2


def test_a_saved_part_that_changed_is_no_result(
    counter: Counter, measure: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    measure()
    path = tmp_path / "out" / "parts" / "count.json"
    path.write_text(path.read_text().replace("20.0", "21.0"))
    with pytest.raises(InputError, match=r"count\.json has changed .* remove it, and the same"):
        measure()
    path.unlink()
    assert latents(measure()) == [20, 30]
    assert len(counter.calls) == 2


def test_settings_of_parts_are_checked(
    counter: Counter, measure: Callable[..., dict[str, Any]]
) -> None:
    assert latents(measure(part_setting=("count.times=3",))) == [60, 90]
    for word, sentence in (
        ("count.time=3", r"part_setting of count: there is no key 'time'; did you mean times"),
        ("count.times=0", "part_setting of count: times is 0"),
        ("counts.times=3", "part is 'counts'; did you mean count"),
    ):
        with pytest.raises(InputError, match=sentence):
            measure(part_setting=(word,))
    assert parsed_part_settings(("count.a-b=[1, 2]", "count.c=x", "count_together.d=0.5")) == {
        "count": {"a_b": (1, 2), "c": "x"},
        "count_together": {"d": 0.5},
    }
    assert len(counter.calls) == 1


@pytest.mark.slow
def test_baselines_stand_beside_at_each_l0(
    counter: Counter, planted_cache: Path, saes: list[str], tmp_path: Path
) -> None:
    settings = EvalSettings(cache=str(planted_cache), contexts=0, rows=200, device="cpu")
    suite = SuiteSettings(parts=("count",), suite_out=str(tmp_path / "out"))
    found = run_suite(saes, settings, suite)["autoencoders"]
    assert [one["name"] for one in found[2:]] == ["pca L0 3", "random L0 3", "raw"]
    assert [one["baseline"] for one in found] == [None, None, "pca", "random", "raw"]
    assert [one["sae"] for one in found] == [*saes, None, None, None]
    assert found[3]["n_latents"] == 30
    given = dataclasses.replace(suite, baselines=("pca",), baseline_l0=(2, 20))
    found = run_suite(saes, settings, given)["autoencoders"]
    assert [one["name"] for one in found[2:]] == ["pca L0 2", "pca L0 12"]
    assert len(counter.calls) == 2 and counter.calls[1] == ["pca L0 2", "pca L0 12"]


@pytest.mark.parametrize(
    ("l0s", "kept"), [([32, 64, 32], [32, 64]), ([33, 30, 32], [30]), ([1, 2, 100], [1, 2, 100])]
)
def test_one_baseline_serves_l0s_that_all_but_agree(
    l0s: list[int], kept: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparsteer.training.evaluation.subjects import Subject

    def measured(saes: Sequence[SparseAutoencoder], rows: Tensor) -> list[float]:
        raise AssertionError("k is known")

    monkeypatch.setattr(suite_subjects, "mean_l0", measured)
    subjects = [Subject("a", SparseAutoencoder(TopKConfig(4, 200, l0)), "site", None) for l0 in l0s]
    assert suite_subjects.l0s_of(subjects, torch.zeros(2, 4)) == kept


@pytest.mark.slow
def test_runs_that_differ_in_the_seed_alone(
    counter: Counter, measure: Callable[..., dict[str, Any]], planted_cache: Path, tmp_path: Path
) -> None:
    runs: list[str] = []
    for name, k, seed in (("k2-seed0", 2, 0), ("k3", 3, 0), ("k2-seed1", 2, 1)):
        trainer = TrainerConfig(tokens=64, batch_size=32, device="cpu", seed=seed)
        out = str(tmp_path / "runs" / name)
        cache = str(planted_cache)
        train(TrainConfig(cache=cache, out=out, n_latents=16, k=k, trainer=trainer))
        runs.append(out)
    assert seed_groups(runs) == [(0, 2)]
    assert seed_groups([*runs[1:], str(tmp_path)]) == []
    result = measure(runs)
    (group,) = result["seeds"]
    assert group["name"] == "k2-seed*" and group["members"] == ["k2-seed0", "k2-seed1"]
    assert group["parts"]["count"]["latents"]["mean"] == 16
    assert group["parts"]["count"]["latents"]["spread"] == 0
    assert counter.seeds == [[[runs[0], runs[2]]]]
    assert suite_folder(runs, SuiteSettings()) == tmp_path / "runs" / "suite"
    assert suite_folder([f"{runs[0]}/sae"], SuiteSettings()) == Path(runs[0]) / "suite"


def test_where_results_go_without_a_run(saes: list[str], tmp_path: Path) -> None:
    assert suite_folder(saes[:1], SuiteSettings()) == tmp_path / "wide20-suite"
    assert suite_folder(["hub:somebody/sae"], SuiteSettings()) == Path("suite")
    assert suite_folder(saes, SuiteSettings(suite_out="x")) == Path("x")


def test_mean_and_spread_over_seeds() -> None:
    shown = {"heading": "FVU", "digits": 3, "percent": False, "in_table": True}
    values: list[list[float | None]] = [[1.0, 4.0], [2.0, None], [6.0, 5.0]]
    figures = [{"a": {"value": a, **shown}, "b": {"value": b, **shown}} for a, b in values]
    del figures[0]["b"]["in_table"]
    figures[0]["b"]["in_table"] = True
    found = over_seeds(figures)
    assert found["a"]["mean"] == 3 and found["a"]["spread"] == pytest.approx(7**0.5)
    assert found["b"]["mean"] is None and found["a"]["seeds"] == 3
    assert over_seeds([figures[0], {"a": figures[1]["a"]}]).keys() == {"a"}


@pytest.mark.parametrize(
    ("names", "common"),
    [(["k-seed0", "k-seed12"], "k-seed*"), (["0-a", "1-a"], "*-a"), (["aa", "aaa"], "aa*")],
)
def test_common_names(names: list[str], common: str) -> None:
    assert common_name(names) == common


@pytest.mark.slow
def test_several_sites_have_baselines_of_their_own(
    counter: Counter, paired_cache: Path, tmp_path: Path
) -> None:
    from sparsteer.sae.config import Origin
    from sparsteer.training.data.cache.reader import ActivationCache

    cache = ActivationCache(paired_cache)
    paths: list[str] = []
    for number, site in enumerate(cache.sites):
        sae = SparseAutoencoder(TopKConfig(12, 20, 3), origin=Origin(model="tiny", site=site))
        initialize_from_rows(sae, cache.sample(100, site=site))
        paths.append(str(tmp_path / f"sae{number}"))
        sae.save(paths[-1])
    settings = EvalSettings(cache=str(paired_cache), contexts=0, rows=200, device="cpu")
    suite = SuiteSettings(parts=("count",), baselines=("raw",), suite_out=str(tmp_path / "out"))
    found = run_suite(paths, settings, suite)["autoencoders"]
    assert [one["site"] for one in found] == [*cache.sites, *cache.sites]
    assert found[2]["name"] == f"raw at {cache.sites[0]}"
