"""Finding features: against dense numbers, on planted features, and what it is held against."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import InputError, LanguageModel, Origin, SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.steering.encoding import encode_texts
from sparsteer.steering.features import Search, find_features
from sparsteer.steering.features.find_config import FindConfig
from sparsteer.steering.features.find_measures import Eligible, ranked
from sparsteer.steering.features.search import find
from sparsteer.steering.features.text_lists import read_text_list
from sparsteer.steering.loading import LoadedRun

N_LATENTS = 64
POSITIVE = [f"the {word} sat there!" for word in ("cat", "dog", "owl", "fox", "hen")] + ["q!"]
NEGATIVE = [f"{word} 12 + 7 = 19" for word in ("two", "sum", "add", "one more")] + ["", "z"]


@pytest.fixture(scope="module")
def loaded(tiny_model: LanguageModel) -> LoadedRun:
    site = tiny_model.site("blocks.1.hook_resid_post")
    origin = Origin(model=tiny_model.name, site=site.name, weights_hash=tiny_model.weights_hash)
    sae = SparseAutoencoder(TopKConfig(32, N_LATENTS, 6), seed=2, origin=origin)
    return LoadedRun(tiny_model, site, sae)


@pytest.fixture(scope="module")
def search(loaded: LoadedRun) -> Search:
    return find_features(loaded, POSITIVE, NEGATIVE, top=N_LATENTS, min_firing=0.0)


def dense_texts(loaded: LoadedRun, texts: list[str]) -> Iterator[torch.Tensor]:
    for text in encode_texts(*loaded, texts):
        if len(text.codes.indices):
            yield text.codes.dense(N_LATENTS)


def area_of(positive: list[float], negative: list[float]) -> float:
    wins = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    return sum(wins) / len(wins)


def test_every_number_equals_the_dense_one(loaded: LoadedRun, search: Search) -> None:
    positive = list(dense_texts(loaded, POSITIVE))
    negative = list(dense_texts(loaded, NEGATIVE))
    assert (len(positive), len(negative)) == (search.positive.texts, search.negative.texts)
    assert search.considered == len(search.features) == N_LATENTS
    for found in search.features:
        columns = {"mean": [0.0], "amax": [0.0]}
        for name in columns:
            sides = [
                [float(getattr(text[:, found.feature], name)()) for text in texts]
                for texts in (positive, negative)
            ]
            means = [sum(side) / len(side) for side in sides]
            fires = [sum(value > 0 for value in side) / len(side) for side in sides]
            if name == "mean":
                assert found.auroc_mean == pytest.approx(area_of(*sides))
                assert (found.mean_positive, found.mean_negative) == pytest.approx(tuple(means))
                assert found.difference == pytest.approx(means[0] - means[1])
            else:
                assert found.auroc_max == pytest.approx(area_of(*sides))
            assert (found.firing_positive, found.firing_negative) == pytest.approx(tuple(fires))


def test_what_was_read_is_said(loaded: LoadedRun, search: Search) -> None:
    lengths = [
        [float(len(text)) for text in dense_texts(loaded, texts)] for texts in (POSITIVE, NEGATIVE)
    ]
    assert search.length_auroc == pytest.approx(area_of(*lengths))
    assert search.positive.mean_length == pytest.approx(sum(lengths[0]) / len(lengths[0]))
    # The empty text has no token, "z" only the first one, which never counts.
    assert search.negative.without_content == 2 and search.positive.without_content == 0
    cut = find_features(loaded, POSITIVE, NEGATIVE, max_length=10)
    assert cut.positive.truncated == 5 and cut.negative.truncated == 4
    assert search.positive.truncated == search.negative.truncated == 0


def test_the_default_length_is_what_a_short_context_holds(
    loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded.model, "max_context", 11)  # BOS and 10 more
    short = find_features(loaded, POSITIVE, NEGATIVE)
    assert short == find_features(loaded, POSITIVE, NEGATIVE, max_length=10)
    assert short.positive.truncated == 5
    with pytest.raises(InputError, match="max_length is 11; it must lie between 1 and the 10"):
        find_features(loaded, POSITIVE, NEGATIVE, max_length=11)


@pytest.mark.parametrize("rank_by", ["auroc_mean", "auroc_max", "difference"])
def test_the_order(loaded: LoadedRun, search: Search, rank_by: Any) -> None:
    given = find_features(
        loaded, POSITIVE, NEGATIVE, top=9, rank_by=rank_by, min_firing=0.5, seed=4
    )
    candidates = [found for found in search.features if found.firing_positive >= 0.5]
    assert given.considered == len(candidates) < N_LATENTS
    candidates.sort(key=lambda found: (-getattr(found, rank_by), found.feature))
    assert [found.feature for found in given.features] == [f.feature for f in candidates[:9]]
    again = find_features(
        loaded, POSITIVE, NEGATIVE, top=9, rank_by=rank_by, min_firing=0.5, seed=4
    )
    assert again == given


def test_a_planted_feature_is_found_first(loaded: LoadedRun) -> None:
    """A latent that reads the direction in which the two sets differ, above all others."""
    means: list[torch.Tensor] = []
    for texts in (POSITIVE, NEGATIVE):
        rows: list[torch.Tensor] = []
        for text in texts:
            tokens = torch.tensor([[loaded.model.bos_id or 0, *loaded.model.tokenize(text)]])
            kept = ~loaded.model.excluded_tokens(tokens, torch.ones_like(tokens, dtype=torch.bool))
            rows.append(loaded.site.read(tokens)[kept])
        means.append(torch.cat(rows).mean(0))
    sae = SparseAutoencoder(loaded.sae.config, seed=2)
    direction = torch.nn.functional.normalize(means[0] - means[1], dim=0)
    with torch.no_grad():
        sae.W_enc[17] = 40 * direction
        sae.b_enc[17] = -40 * float((means[0] + means[1]) @ direction) / 2
    given = find_features(loaded._replace(sae=sae), POSITIVE, NEGATIVE)
    assert given.features[0].feature == 17
    assert given.features[0].auroc_mean > 0.9 > given.chance


def test_sets_of_one_kind_give_chance_only(loaded: LoadedRun) -> None:
    texts = [f"number {n} and {n * 7 % 13}" for n in range(40)]
    given = find_features(loaded, texts[::2], texts[1::2])
    assert 0.5 < given.chance < 0.9
    assert abs(given.features[0].auroc_mean - given.chance) < 0.15
    other = find_features(loaded, texts[::2], texts[1::2], seed=1)
    assert other.features == given.features and other.chance != given.chance


def test_equal_scores_go_by_number() -> None:
    columns = {
        "difference": torch.tensor([1.0, 2.0, 2.0, 3.0], dtype=torch.float64),
        "firing_positive": torch.tensor([1.0, 0.5, 0.9, 0.1], dtype=torch.float64),
    }
    assert ranked(columns, "difference", Eligible(0.2)).numpy().tolist() == [1, 2, 0]


def test_nothing_fires_often_enough(loaded: LoadedRun) -> None:
    sae = SparseAutoencoder(loaded.sae.config, seed=2)
    sae.b_enc.data.fill_(-1e9)
    given = find_features(loaded._replace(sae=sae), POSITIVE, NEGATIVE)
    assert given.features == () and given.considered == 0 and given.chance == 0


@pytest.mark.parametrize(("positive", "negative"), [([], NEGATIVE), (POSITIVE, ["", "z"])])
def test_a_set_without_content(loaded: LoadedRun, positive: list[str], negative: list[str]) -> None:
    name = "negative" if positive else "positive"
    with pytest.raises(InputError, match=f"no {name} text has a token that counts"):
        find_features(loaded, positive, negative)


def test_finding_in_files(loaded: LoadedRun, search: Search, tmp_path: Path) -> None:
    loaded.sae.save(tmp_path / "run" / "sae")
    (tmp_path / "positive.txt").write_text("\n".join(POSITIVE) + "\n\n")
    rows = "".join(json.dumps({"body": text}) + "\n" for text in NEGATIVE)
    (tmp_path / "negative.jsonl").write_text(rows)
    config = FindConfig(
        run=str(tmp_path / "run"),
        positive=str(tmp_path / "positive.txt"),
        negative=str(tmp_path / "negative.jsonl"),
        text_field="body",
        top=N_LATENTS,
        min_firing=0.0,
        device="cpu",
    )
    values = find(config)
    assert values["site"] == "blocks.1.hook_resid_post" and values["model"] == loaded.model.name
    expected = search.to_dict()
    # Blank texts of a file are passed over before they are read.
    expected["negative"]["without_content"] = 1
    assert {name: values[name] for name in expected} == expected


def test_texts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffone line\r\n\n  \ntwo\x0cstill two\u2028and still\n".encode())
    assert read_text_list(path) == ["one line", "two\x0cstill two\u2028and still"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.txt", b"", "has no text"),
        ("blank.txt", b"\n \n\t\n", "has no text"),
        ("blank.jsonl", b'{"text": ""}\n', "has no text"),
        ("latin.txt", b"caf\xe9\n", "not UTF-8"),
        ("other.jsonl", b'{"txet": "a"}\n', r"none of the fields.*--text-field: txet"),
        ("broken.jsonl", b'{"text": \n', "line 1"),
        ("table.xlsx", b"text\na\n", r"not a file ending in .jsonl"),
        ("packed.txt.gz", b"\x1f\x8b", r"is damaged"),
    ],
)
def test_files_without_texts(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_text_list(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.txt is not there"):
        read_text_list(tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_by": "auc"}, "rank_by is 'auc'"),
        ({"min_firing": float("nan")}, "min_firing is nan"),
        ({"min_firing": 1.5}, "min_firing is 1.5"),
        ({"top": 0}, "top is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FindConfig(run="R", positive="p.txt", negative="n.txt", **changes)
