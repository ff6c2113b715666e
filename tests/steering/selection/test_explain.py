"""Scores taken apart: shares that add up, tokens that add up, and what cannot be explained."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import InputError, LanguageModel, Origin, SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.steering.loading import LoadedRun, load_run
from sparsteer.steering.selection import (
    ExplainConfig,
    Explainer,
    ScoreConfig,
    ScoredFile,
    SelectConfig,
    explain,
    generalized_jaccard,
    score,
    select,
)
from sparsteer.steering.selection.embedding import Mean
from sparsteer.steering.selection.explaining import shares_of

TARGET = ["What is 5 + 6? It is 11.", "Add 3 and 4: 7"]
TEXTS = ["Add 30 and 4.", "", "The quick brown fox", "x", "rain and wind " * 40, "What is 5 + 6?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: LanguageModel) -> Path:
    """A run, rows and a target, all relative to this folder."""
    folder = tmp_path_factory.mktemp("explain")
    origin = Origin(
        model=tiny_model.name, site=tiny_model.site().name, weights_hash=tiny_model.weights_hash
    )
    SparseAutoencoder(TopKConfig(32, 64, 6), seed=5, origin=origin).save(folder / "run" / "sae")
    write(folder / "rows.jsonl", TEXTS)
    write(folder / "target.jsonl", TARGET)
    score(config(folder))
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedRun:
    return load_run(str(folder / "run"), device="cpu")


def write(path: Path, texts: Sequence[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def config(folder: Path, out: str = "scored.jsonl", **more: Any) -> ScoreConfig:
    return ScoreConfig(
        file=str(folder / "rows.jsonl"),
        target=str(folder / "target.jsonl"),
        run=str(folder / "run"),
        out=str(folder / out),
        max_length=300,
        device="cpu",
        **more,
    )


@pytest.mark.parametrize("n_latents", [1, 7, 97])
@pytest.mark.parametrize("seed", range(4))
def test_shares_add_up_to_the_similarity(n_latents: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    dense = torch.rand(n_latents, generator=draw) * (torch.rand(n_latents, generator=draw) < 0.5)
    prototype = torch.rand(n_latents, generator=draw) * (
        torch.rand(n_latents, generator=draw) < 0.7
    )
    latents = dense.nonzero().flatten()
    shares = shares_of(Mean(latents, dense[latents]), prototype)
    expected = float(generalized_jaccard(dense.double()[None], prototype.double())[0])
    assert shares.score == pytest.approx(expected, abs=1e-12)
    rest = float(shares.only_row_F.sum() + shares.only_target_F.sum())
    whole = 0.0 if not (dense.any() or prototype.any()) else 1.0
    assert shares.score + rest == pytest.approx(whole, abs=1e-12)
    assert float(shares.shares_F.min()) >= 0
    nothing = (dense == 0) | (prototype == 0)
    assert not shares.shares_F[nothing].any()


def test_a_row_has_the_score_of_its_file(folder: Path, loaded: LoadedRun) -> None:
    scored = ScoredFile.open(folder / "scored.jsonl")
    explainer = Explainer(scored, loaded)
    for number in scored.order:
        found = explainer.explain(int(number) + 1, features=64)
        assert found.score == pytest.approx(found.stored_score, rel=1e-6)
        assert sum(each.share for each in found.features) == pytest.approx(found.score)
        assert found.score + found.only_row + found.only_target == pytest.approx(1)
        assert len(found.features) == found.shared_features
        assert "".join(found.tokens) == TEXTS[number][: len("".join(found.tokens))]
        n_content = sum(found.content)
        for each in found.features:
            assert len(each.activations) == len(found.tokens)
            assert sum(each.activations) / n_content == pytest.approx(each.row, rel=1e-4)
            silent = [
                a for a, kept in zip(each.activations, found.content, strict=True) if not kept
            ]
            assert not any(silent)
            assert each.row > 0 and each.target > 0
        assert sum(found.token_shares) == pytest.approx(found.score, rel=1e-6)
        shares = [each.share for each in found.features]
        assert shares == sorted(shares, reverse=True)


def test_the_command_gives_the_same(folder: Path, loaded: LoadedRun) -> None:
    values = explain(
        ExplainConfig(
            file=str(folder / "scored.jsonl"),
            row=6,
            run=str(folder / "run"),
            features=3,
            device="cpu",
        )
    )
    found = Explainer(ScoredFile.open(folder / "scored.jsonl"), loaded).explain(6, features=3)
    assert values["text"] == "What is 5 + 6?"
    assert len(values["features"]) == 3
    assert values["score"] == found.score
    assert json.loads(json.dumps(values, allow_nan=False)) == json.loads(
        json.dumps({**values, **found.to_dict()})
    )


@pytest.mark.parametrize(
    ("row", "says"), [(2, "row 2 has no score"), (7, "no row 7"), (100_000, "rows 1 to 6")]
)
def test_rows_that_cannot_be_explained(
    folder: Path, loaded: LoadedRun, row: int, says: str
) -> None:
    explainer = Explainer(ScoredFile.open(folder / "scored.jsonl"), loaded)
    with pytest.raises(InputError, match=says):
        explainer.explain(row)


def test_another_method_autoencoder_or_target_is_refused(
    folder: Path, loaded: LoadedRun, tmp_path: Path
) -> None:
    score(config(folder, out="random.jsonl", method="random"))
    with pytest.raises(InputError, match="method 'random', which knows no features"):
        Explainer(ScoredFile.open(folder / "random.jsonl"), loaded)
    scored = ScoredFile.open(folder / "scored.jsonl")
    other = loaded._replace(sae=SparseAutoencoder(TopKConfig(32, 64, 6), seed=6))
    with pytest.raises(InputError, match="another autoencoder"):
        Explainer(scored, other)
    write(tmp_path / "other.jsonl", ["something else"])
    with pytest.raises(InputError, match="not what the rows were scored against"):
        Explainer(scored, loaded, target=tmp_path / "other.jsonl")
    with pytest.raises(InputError, match=r"nowhere.jsonl of these scores is not there"):
        Explainer(scored, loaded, target="nowhere.jsonl")


def test_scores_without_a_record_are_opened_but_not_explained(
    tmp_path: Path, loaded: LoadedRun
) -> None:
    lines = [{"text": text, "sparsteer_score": place / 10} for place, text in enumerate(TEXTS)]
    path = tmp_path / "plain.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scored = ScoredFile.open(path)
    assert scored.order.tolist() == [5, 4, 3, 2, 1, 0]
    assert scored.tokens_N is None and scored.correlation is None
    with pytest.raises(InputError, match=r"there is no plain\.jsonl\.scoring"):
        Explainer(scored, loaded)


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.5, 1.0])
def test_the_cut_is_that_of_select(folder: Path, tmp_path: Path, ratio: float) -> None:
    scored = ScoredFile.open(folder / "scored.jsonl")
    cut = scored.cut(ratio)
    out = str(tmp_path / "chosen.jsonl")
    values = select(SelectConfig(file=str(folder / "scored.jsonl"), out=out, ratio=ratio))
    assert cut["rows"] == values["selected"]
    assert cut["lowest_taken"] == values["lowest_selected"]
    assert cut["highest_left"] == values["highest_left"]
    assert cut["tokens_taken"] == pytest.approx(values["mean_tokens"]["selected"])
    assert cut["tokens_scored"] == pytest.approx(values["mean_tokens"]["scored"])
    texts = [row.text for row in scored.texts(sorted(scored.order[: cut["rows"]].tolist()))]
    assert texts == [json.loads(line)["text"] for line in Path(out).read_text().splitlines()]


def test_ties_nulls_and_rows_out_of_order(tmp_path: Path) -> None:
    scores = [0.5, None, 0.5, 0.1, math.nan, 0.9]
    path = tmp_path / "ties.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"t{i}", "s": s}) + "\n" for i, s in enumerate(scores))
    )
    scored = ScoredFile.open(path, column="s")
    assert scored.order.tolist() == [5, 0, 2, 3]
    assert [row["text"] for row in scored.take([5, 0, 3])] == ["t5", "t0", "t3"]
    with pytest.raises(InputError, match="has no column 'other'"):
        ScoredFile.open(path, column="other")
