"""Searching features by text, token, logit, label and direction, against numbers one by one."""

import math
from pathlib import Path

import pytest

from sparsteer.sae import InputError, LanguageModel
from sparsteer.steering.encoding import encode_texts
from sparsteer.steering.features import BuildConfig, FeatureIndex, Pick, Picks, build_index
from sparsteer.steering.features.config import SearchConfig
from sparsteer.steering.features.lookup import (
    by_label,
    by_logit,
    by_neighbor,
    by_token,
    matching_tokens,
)
from sparsteer.steering.features.searching import described
from sparsteer.steering.features.text_search import TextSearch, search_text
from sparsteer.steering.loading import LoadedRun

from ...tiny_runs import SITE, cache_of_texts, random_topk

N_LATENTS = 40
TEXT = "seven owls and 11 cats"


@pytest.fixture(scope="module")
def loaded(tiny_model: LanguageModel) -> LoadedRun:
    sae = random_topk(tiny_model, N_LATENTS, seed=3)
    return LoadedRun(tiny_model, tiny_model.site(SITE), sae)


@pytest.fixture(scope="module")
def index(loaded: LoadedRun, tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    folder = tmp_path_factory.mktemp("lookup")
    texts = [
        f"{word} {number}" for word in ("one cat", "Two", "three owls") for number in range(30)
    ]
    model = loaded.model
    cache = cache_of_texts(folder, model, texts, context_length=32)
    loaded.sae.save(folder / "run" / "sae")
    built = BuildConfig(run=str(folder / "run"), cache=str(cache), device="cpu")
    build_index(built, model=model)
    return FeatureIndex.of_run(folder / "run")


@pytest.fixture(scope="module")
def found(loaded: LoadedRun, index: FeatureIndex) -> TextSearch:
    return search_text(loaded, index, TEXT, top=N_LATENTS, max_density=1.0)


def test_a_text_search_equals_the_dense_codes(
    loaded: LoadedRun, index: FeatureIndex, found: TextSearch
) -> None:
    (read,) = encode_texts(*loaded, [TEXT])
    dense_CF = read.codes.dense(N_LATENTS)
    kept = [bool(counts) for counts in read.kept]
    places = [place for place, counts in enumerate(kept) if counts]
    assert "".join(found.tokens) == TEXT
    assert found.counts == tuple(kept)
    scores: dict[int, float] = {}
    for number in range(N_LATENTS):
        feature, column_C = index.feature(number), dense_CF[:, number]
        if float(column_C.max()) > 0 and feature.fired:
            rarity = -math.log(feature.density) / math.log(index.manifest["rows"])
            share = float(column_C.max()) / feature.max_activation
            scores[number] = min(share, 1) * rarity
    assert {match.feature: match.score for match in found.features} == pytest.approx(scores)
    assert list(scores) != [], "something fires"
    ordered = [match.score for match in found.features]
    assert ordered == sorted(ordered, reverse=True)
    for match in found.features:
        column_C = dense_CF[:, match.feature]
        fires = {places[c]: float(value) for c, value in enumerate(column_C) if value > 0}
        assert match.fired == len(fires)
        shown = {firing.token: firing.activation for firing in match.firings}
        assert shown == pytest.approx(dict(sorted(fires.items(), key=lambda f: -f[1])[:12]))
        assert all(firing.text == found.tokens[firing.token] for firing in match.firings)
        assert match.activation == pytest.approx(max(fires.values()))
    assert found.firing == int((dense_CF > 0).any(dim=0).sum())


def test_dense_features_are_left_out_and_counted(
    loaded: LoadedRun, index: FeatureIndex, found: TextSearch
) -> None:
    densities = sorted(match.density for match in found.features)
    limit = densities[len(densities) // 2]
    fewer = search_text(loaded, index, TEXT, top=N_LATENTS, max_density=limit)
    expected = [match for match in found.features if match.density <= limit]
    assert list(fewer.features) == expected
    assert fewer.too_dense == len(found.features) - len(expected) > 0
    assert search_text(loaded, index, TEXT, top=2, max_density=1.0).features == found.features[:2]


def test_only_at_some_tokens(loaded: LoadedRun, index: FeatureIndex, found: TextSearch) -> None:
    place = max(n for n, counts in enumerate(found.counts) if counts)
    at_one = search_text(loaded, index, TEXT, top=N_LATENTS, max_density=1.0, at=[place])
    fires_there = {
        match.feature
        for match in found.features
        if place in {firing.token for firing in match.firings}
    }
    assert {match.feature for match in at_one.features} == fires_there
    assert 0 < len(fires_there) < len(found.features)
    with pytest.raises(InputError, match="there is no token 99"):
        search_text(loaded, index, TEXT, at=[99])
    with pytest.raises(InputError, match="no token of the text counts"):
        search_text(loaded, index, "")


def test_by_token_counts_top_examples(index: FeatureIndex) -> None:
    token = index.feature(int(index.statistics["fired"].argmax())).top[0]
    text = token.texts[token.peak]
    ids = set(matching_tokens(index, text))
    expected: dict[int, tuple[int, int]] = {}
    for number in range(N_LATENTS):
        top = index.feature(number).top
        on_it = sum(example.tokens[example.peak] in ids for example in top)
        if on_it:
            expected[number] = (on_it, len(top))
    matches = by_token(index, text, top=N_LATENTS)
    assert {match.feature: (match.examples, match.of) for match in matches} == expected
    scores = [match.score for match in matches]
    assert scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([m.examples / (m.of + 2) for m in matches])
    assert all(0 < match.share <= 1.01 for match in matches)


def test_tokens_match_in_any_case_and_with_spaces(index: FeatureIndex) -> None:
    exact = matching_tokens(index, "t")
    assert exact == matching_tokens(index, " T ")
    texts = {"".join(index.vocabulary.texts([id_])).strip().casefold() for id_ in exact}
    assert texts == {"t"}
    with pytest.raises(InputError, match="no token of the vocabulary is or has 'xyzzyxyzzy'"):
        matching_tokens(index, "xyzzyxyzzy")


def test_by_logit_is_what_the_features_say(index: FeatureIndex) -> None:
    number = int(index.statistics["fired"].argmax())
    raised = index.feature(number).positive_logits
    assert raised is not None
    wanted = next(token for token in raised if token.text.strip())
    ids = set(matching_tokens(index, wanted.text))
    matches = by_logit(index, wanted.text, top=N_LATENTS)
    expected: dict[int, int] = {}
    for other in range(N_LATENTS):
        feature = index.feature(other)
        places = [n for n, t in enumerate(feature.positive_logits or ()) if t.token in ids]
        if places and feature.fired:
            expected[other] = places[0] + 1
    assert {match.feature: match.place for match in matches} == expected
    assert [match.place for match in matches] == sorted(expected.values())
    own = next(match for match in matches if match.feature == number)
    assert own.share == pytest.approx(own.logit / raised[0].logit)


def test_by_neighbor_is_what_the_feature_says(index: FeatureIndex) -> None:
    near = by_neighbor(index, 5, top=3)
    expected = index.feature(5).neighbors[:3]
    assert [(n.feature, n.cosine) for n in near] == [(n.feature, n.cosine) for n in expected]
    with pytest.raises(InputError, match="there is no feature 40"):
        by_neighbor(index, 40)


def test_by_label_takes_a_persons_before_a_machines(
    index: FeatureIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Named:
        label = "cats of a machine"

    def named(run: Path, *, sae: str) -> dict[int, type[Named]]:
        return {1: Named, 2: Named}

    monkeypatch.setattr("sparsteer.steering.features.lookup.machine_labels", named)
    sae = index.manifest["sae"]
    picks = Picks(
        sae, (Pick(feature=2, label="dogs"), Pick(feature=9, label="big CATS", note="and lions"))
    )
    found = by_label(index, picks, "Cat")
    assert [(match.feature, match.label_source) for match in found] == [
        (9, "person"),
        (1, "machine"),
    ]
    assert [match.feature for match in by_label(index, picks, "lion big")] == [9]
    assert by_label(index, picks, "cat nothing") == []


def test_what_is_known_of_a_feature_is_added(index: FeatureIndex) -> None:
    picks = Picks(index.manifest["sae"], (Pick(feature=3, label="three", starred=True),))
    three, four = described(index, picks, [{"feature": 3, "score": 0.5}, {"feature": 4}])
    assert (three["label"], three["label_source"], three["starred"]) == ("three", "person", True)
    assert three["score"] == 0.5 and three["peaks"] == index.peak_texts(3, 4)
    assert (four["label"], four["label_source"], four["verdict"]) == ("", "", "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "what to search for is missing; give one of --text"),
        ({"text": "a", "token": "b"}, "text and token are given; give one of"),
        ({"text": " "}, "text is empty"),
        ({"near": -1}, "near is -1"),
        ({"text": "a", "max_density": 2.0}, "max_density is 2.0"),
        ({"text": "a", "top": 0}, "top is 0"),
    ],
)
def test_settings_are_checked(given: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        SearchConfig(run=str(tmp_path), **given)  # pyright: ignore[reportArgumentType]
