"""Finding features by their output, without duplicates, as a group, with the texts that decided."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae import InputError, LanguageModel, Origin, SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.fetching.fetch import cached_path
from sparsteer.steering.detox.prompts import prompts_of, reporting_prompts_among
from sparsteer.steering.encoding import encode_texts
from sparsteer.steering.features import find_features
from sparsteer.steering.features.find_config import FindConfig
from sparsteer.steering.features.search import find
from sparsteer.steering.loading import LoadedRun

N_LATENTS = 48
POSITIVE = [f"the {word} sat there!" for word in ("cat", "dog", "owl", "fox", "hen")] + ["q!", "z"]
NEGATIVE = ["", *(f"{word} 12 + 7 = 19" for word in ("two", "sum", "add", "one more", "🎉\0"))]


@pytest.fixture(scope="module")
def loaded(tiny_model: LanguageModel) -> LoadedRun:
    site = tiny_model.site("blocks.1.hook_resid_post")
    origin = Origin(model=tiny_model.name, site=site.name, weights_hash=tiny_model.weights_hash)
    sae = SparseAutoencoder(TopKConfig(32, N_LATENTS, 6), seed=2, origin=origin)
    return LoadedRun(tiny_model, site, sae)


def test_ranking_by_the_output_of_the_best_candidates(loaded: LoadedRun) -> None:
    plain = find_features(loaded, POSITIVE, NEGATIVE, top=9)
    assert all(found.output is None and found.texts == () for found in plain.features)
    assert plain.outputs_measured == 0 and plain.group is None and plain.duplicates == ()
    measured = find_features(loaded, POSITIVE, NEGATIVE, top=9, outputs=4)
    assert [dataclasses.replace(f, output=None) for f in measured.features] == list(plain.features)
    assert [found.output is not None for found in measured.features] == 4 * [True] + 5 * [False]
    for rank_by in ("output_score", "confidence_change"):
        said: list[str] = []
        found = find_features(
            loaded, POSITIVE, NEGATIVE, top=3, outputs=9, rank_by=rank_by, say=said.append
        )
        assert found.candidates_by == "auroc_mean" and found.outputs_measured == 9
        assert found.chance == plain.chance and len(found.features) == 3
        effects = {f.feature: f.output for f in found.features}
        assert effects.keys() < {f.feature for f in plain.features}
        values = [e.strength(rank_by) for e in effects.values() if e]
        assert values == sorted(values, reverse=True) and values[0] > 0
        assert any("measuring what 9 features do" in sentence for sentence in said)


def test_a_copy_of_a_latent_is_left_out_and_named(loaded: LoadedRun) -> None:
    best = (
        find_features(loaded, POSITIVE, NEGATIVE, top=1, rank_by="difference").features[0].feature
    )
    copy = (best + 7) % N_LATENTS
    sae = SparseAutoencoder(TopKConfig(32, N_LATENTS, 12), seed=2)
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec"):
            getattr(sae, name)[copy] = getattr(sae, name)[best]
    twice = loaded._replace(sae=sae)
    everything = find_features(twice, POSITIVE, NEGATIVE, top=N_LATENTS, min_firing=0.0)
    numbers = [found.feature for found in everything.features]
    first, second = sorted((best, copy), key=numbers.index)
    for cosine, cofiring in ((0.99, None), (None, 0.9)):
        found = find_features(
            *(twice, POSITIVE, NEGATIVE),
            top=N_LATENTS,
            min_firing=0.0,
            max_cosine=cosine,
            max_cofiring=cofiring,
        )
        left = {one.feature: one for one in found.duplicates}
        assert left[second].of == first and left[second].value > 0.9
        assert all(one.value > (cosine or cofiring or 1) for one in left.values())
        assert [f.feature for f in found.features] == [n for n in numbers if n not in left]


def test_densities_leave_features_out_before_they_are_ranked(loaded: LoadedRun) -> None:
    density_F = torch.linspace(0, 1, N_LATENTS, dtype=torch.float64)
    everything = find_features(loaded, POSITIVE, NEGATIVE, top=N_LATENTS)
    found = find_features(
        *(loaded, POSITIVE, NEGATIVE),
        top=N_LATENTS,
        density_F=density_F,
        min_density=0.2,
        max_density=0.6,
    )
    inside = [f for f in everything.features if 0.2 <= density_F[f.feature] <= 0.6]
    assert list(found.features) == inside and found.considered == len(inside)
    assert found.density_excluded == everything.considered - len(inside) > 0
    assert found.chance <= everything.chance
    with pytest.raises(InputError, match="min_density and max_density need density_F"):
        find_features(loaded, POSITIVE, NEGATIVE, max_density=0.5)


@pytest.mark.parametrize("rank_by", ["auroc_mean", "auroc_max"])
def test_the_texts_that_decided(loaded: LoadedRun, rank_by: Any) -> None:
    found = find_features(loaded, POSITIVE, NEGATIVE, top=6, rank_by=rank_by, explain=20)
    texts = {"positive": POSITIVE, "negative": NEGATIVE}
    codes = {
        side: [text.codes.dense(N_LATENTS) for text in encode_texts(*loaded, own)]
        for side, own in texts.items()
    }
    for feature in found.features:
        speaking = [text for text in feature.texts if text.role == "for"]
        against = [text for text in feature.texts if text.role == "against"]
        assert all(text.side == "positive" and text.value > 0 for text in speaking)
        assert [t.value for t in speaking] == sorted((t.value for t in speaking), reverse=True)
        assert [t.share for t in against] == sorted((t.share for t in against), reverse=True)
        # What is ordered wrongly from either side is what is missing from the area.
        for side, n in (("positive", 6), ("negative", 5)):
            missing = sum(text.share for text in against if text.side == side) / n
            assert missing == pytest.approx(1 - getattr(feature, rank_by))
        for text in feature.texts:
            assert "".join(text.tokens) == texts[text.side][text.number]
            dense = codes[text.side][text.number][:, feature.feature]
            assert len(text.activations) == len(text.tokens) == len(text.counts)
            shown = [a for a, counts in zip(text.activations, text.counts, strict=True) if counts]
            assert shown == pytest.approx(dense.numpy().tolist(), rel=1e-4, abs=1e-5)
            pooled = dense.max() if rank_by == "auroc_max" else dense.mean()
            assert text.value == pytest.approx(float(pooled), rel=1e-4)
    few = find_features(loaded, POSITIVE, NEGATIVE, top=1, rank_by=rank_by, explain=1)
    assert [text.role for text in few.features[0].texts] in (["for"], ["for", "against"])


def test_texts_that_are_all_equal_tell_nothing(loaded: LoadedRun) -> None:
    found = find_features(loaded, ["the same"], ["the same"], explain=1, max_cofiring=0.5)
    assert all(feature.auroc_mean == 0.5 for feature in found.features) and found.features
    assert all(text.share == 0.5 for feature in found.features for text in feature.texts)
    long = find_features(loaded, ["x" * 3000], ["y" * 3000], top=1, explain=1)
    assert long.positive.truncated == 1 and long.features[0].texts[0].truncated


def test_a_group_needs_texts(loaded: LoadedRun) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(InputError, match="needs 10 different positive texts; there are 7"):
        find_features(loaded, POSITIVE, NEGATIVE, group=2)
    positive = [f"the {n} sat there!" for n in range(12)]
    negative = [f"{n} + 7 = 19" for n in range(12)]
    found = find_features(loaded, positive, negative, group=2)
    assert found.group is not None and 1 <= len(found.group.features) <= 2
    assert found.group.considered == found.considered and found.group.path == ()
    with pytest.raises(InputError, match="different negative texts; there is 1:"):
        find_features(loaded, [*positive, "a", "b"], [positive[0], "z y x"], group=2)


def test_prompts_that_results_are_reported_on_are_refused(
    loaded: LoadedRun, made_up_texts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not reporting_prompts_among(POSITIVE), "no prompts are fetched"
    monkeypatch.setenv("SPARSTEER_CACHE", str(made_up_texts))
    assert cached_path("rtp-prompts").exists()
    reporting = [prompt.text for prompt in prompts_of("reporting")]
    tuning = [prompt.text for prompt in prompts_of("tuning")]
    assert reporting and not reporting_prompts_among([*tuning, *POSITIVE, "", "12 + 7"])
    reporting = [text for text in reporting if text.count(" ") > 1]
    changed = [f"{text.upper()}!" for text in reporting]
    assert reporting_prompts_among([*POSITIVE, *changed]) == [
        len(POSITIVE) + n for n in range(len(changed))
    ]
    sentence = (
        "2 of the 4 positive texts and 1 of the 7 negative are RealToxicityPrompts prompts of the "
        "reporting side"
    )
    texts = [*tuning[:2], *reporting[:2]], [*NEGATIVE, reporting[2]]
    with pytest.raises(InputError, match=sentence):
        find_features(loaded, *texts)
    allowed = find_features(loaded, *texts, allow_reporting_side=True)
    assert allowed.positive.texts == 4
    loaded.sae.save(tmp_path / "run" / "sae")
    for name, side in zip(("positive", "negative"), texts, strict=True):
        rows = "".join(json.dumps({"text": text or "x y"}) + "\n" for text in side)
        (tmp_path / f"{name}.jsonl").write_text(rows)
    settings: dict[str, Any] = {
        "run": str(tmp_path / "run"),
        "positive": str(tmp_path / "positive.jsonl"),
        "negative": str(tmp_path / "negative.jsonl"),
        "device": "cpu",
    }
    with pytest.raises(InputError, match=sentence):
        find(FindConfig(**settings))
    assert find(FindConfig(**settings, allow_reporting_side=True))["features"]
    with pytest.raises(InputError, match="has none; run sparsteer features build"):
        find(FindConfig(**settings, allow_reporting_side=True, max_density=0.1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_cosine": 1.5}, "max_cosine is 1.5"),
        ({"min_density": 0.2, "max_density": 0.1}, "min_density is 0.2, above max_density"),
        ({"outputs": 0}, "outputs is 0"),
        ({"output_prompt": " "}, "output_prompt is empty"),
        ({"output_prompt": "Then"}, "output_prompt is given, but no output is measured"),
        ({"group": "0"}, "group is '0', but must be a whole number of at least 1, or auto"),
        ({"group": "many"}, "group is 'many'"),
        ({"explain": -1}, "explain is -1"),
        ({"rank_by": "output"}, "rank_by is 'output'"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FindConfig(run="R", positive="p.txt", negative="n.txt", **changes)
