"""The verb eval with --suite, on runs of the tiny model."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from sparsteer.cli.suite_table import Column, SuiteTable

from .conftest import SITES, TRAIN_WORDS, Sparsteer


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> list[Path]:
    """Three runs: two seeds of one configuration, and another k."""
    from sparsteer.cli.main import main

    folder = tmp_path_factory.mktemp("grid")
    found: list[Path] = []
    for name, words in (
        ("k4-seed0", ["--seed", "0"]),
        ("k4-seed1", ["--seed", "1"]),
        ("k8", ["--k", "8"]),
    ):
        found.append(folder / name)
        given = ["--cache", str(cache), "--out", str(found[-1]), "--site", SITES[1]]
        usual = list(TRAIN_WORDS)
        if "--k" in words:
            at = usual.index("--k")
            del usual[at : at + 2]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SPARSTEER_THREADS", "1")
            assert main(["train", *given, *usual, *words]) == 0
    return found


@pytest.mark.slow
def test_the_suite(sparsteer: Sparsteer, runs: list[Path], cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "suite"
    parts = ["--parts", "held_out", "classes"]
    words = ["eval", *runs, "--cache", cache, "--suite", *parts]
    words += ["--contexts", 6, "--suite-out", out]
    done = sparsteer(*words, "--json")
    assert done.status == 0, done.err
    values = done.values
    names = [one["name"] for one in values["autoencoders"]]
    pairs = [f"{kind} L0 {l0}" for kind in ("pca", "random") for l0 in (4, 8)]
    assert names == ["k4-seed0", "k4-seed1", "k8", *pairs, "raw"]
    assert list(values["parts"])[:2] == ["held_out", "classes"]
    for one in values["autoencoders"]:
        figures = one["parts"]["held_out"]["figures"]
        assert figures["fvu"]["value"] == one["parts"]["held_out"]["details"]["fvu"]
        assert "fvu_special" in one["parts"]["classes"]["figures"]
        assert not one["parts"]["held_out"]["reused"]
    raw = values["autoencoders"][-1]["parts"]["held_out"]
    assert raw["figures"]["fvu"]["value"] < 1e-6 and raw["figures"]["l0"]["value"] == 32
    (group,) = values["seeds"]
    assert group["name"] == "k4-seed*" and group["members"] == names[:2]
    fvus = [one["parts"]["held_out"]["figures"]["fvu"]["value"] for one in values["autoencoders"]]
    assert group["parts"]["held_out"]["fvu"]["mean"] == pytest.approx(sum(fvus[:2]) / 2)
    assert group["parts"]["held_out"]["fvu"]["spread"] == pytest.approx(
        abs(fvus[0] - fvus[1]) / 2**0.5
    )
    assert json.loads((out / "suite.json").read_text())["seeds"] == values["seeds"]

    again = sparsteer(*words)
    assert again.status == 0
    assert "held_out: 8 of 8 measured before" in again.err and "loading" not in again.err
    assert "k4-seed* (2 seeds)" in again.out and "FVU by class:" in again.out
    assert all(f"{fvu:.4f}" in again.out for fvu in fvus[2:])
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 1  # this model recovers nothing, so that there is no such front
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    assert all(f">{name}<" in page for name in names)


@pytest.mark.slow
def test_results_lie_beside_the_runs(sparsteer: Sparsteer, runs: list[Path], cache: Path) -> None:
    words = ("--cache", cache, "--suite", "--contexts", 0, "--baselines", "none", "--json")
    several = sparsteer("eval", *runs[:2], *words)
    assert several.status == 0
    assert Path(several.values["folder"]) == runs[0].parent / "suite"
    parts = list(several.values["parts"])
    assert parts[0] == "held_out" and "meaning" in parts and "classes" not in parts
    assert "the part classes is left out" in several.err
    one = sparsteer("eval", runs[0] / "sae", *words)
    assert Path(one.values["page"]) == runs[0] / "suite" / "report.html"
    page = runs[0] / "suite" / "report.html"
    page.write_text("mine")
    refused = sparsteer("eval", runs[0], *words)
    assert refused.status == 2 and "not of sparsteer's making" in refused.error
    assert sparsteer("eval", runs[0], *words, "--force").status == 0
    assert "mine" not in page.read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--parts", "classes"], "--parts is given without suite, which alone takes it"),
        (["--seed", "3"], "--seed is given without suite"),
        (["--suite", "--plots"], "--plots is given with suite"),
        (["--suite", "--parts", "clases"], "perhaps you meant classes"),
        (["--suite", "--parts", "classes", "--contexts", "0"], "--contexts is 0, which leaves"),
        (["--suite", "--baselines", "none", "pca"], "--baselines has none beside others"),
        (["--suite", "--part-setting", "k=3"], "--part-setting is 'k=3'; write PART.NAME=VALUE"),
        (["--suite", "--part-setting", "held_out.k=3"], "held_out, which has no settings"),
        (
            ["--suite", "--parts", "held_out", "--part-setting", "classes.k=3"],
            "classes, which is not measured",
        ),
    ],
)
def test_wrong_words(
    sparsteer: Sparsteer, run_folder: Path, cache: Path, words: list[str], sentence: str
) -> None:
    done = sparsteer("eval", run_folder, "--cache", cache, *words)
    assert done.status == 2
    assert sentence in done.error


@pytest.mark.slow
def test_an_interrupted_suite_says_that_it_goes_on(
    sparsteer: Sparsteer,
    run_folder: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sparsteer.steering.suite.parts import classes

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    words = ["eval", run_folder, "--cache", cache, "--suite", "--contexts", 2, "--suite-out"]
    with monkeypatch.context() as patch:
        patch.setattr(classes, "figures_by_class", interrupted)
        done = sparsteer(*words, tmp_path / "out")
    assert done.status == 1
    assert done.error.startswith("interrupted; the same command goes on with the part that")
    assert not (tmp_path / "out" / "suite.json").exists()
    again = sparsteer(*words, tmp_path / "out")
    assert again.status == 0
    assert "held_out: 4 of 4 measured before" in again.err
    assert "classes: measuring 4" in again.err


@pytest.mark.parametrize("width", [44, 80, 200])
def test_the_table_fits(width: int) -> None:
    from rich.console import Console

    names = ("topk-l32-a-rather-long-name-of-a-run", "raw")
    columns = tuple(
        Column(f"FVU {name}", ("0.1234 ± 0.0012", "0.5"))
        for name in ("special", "first", "delimiter", "content", "norm")
    )
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(SuiteTable(names, (("by class", columns),)))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(lines)
    assert text.count("0.1234 ± 0.0012") == 5 and "delimiter" in text
