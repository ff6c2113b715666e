"""The verbs features build, show and find, and pick, on a run of the tiny model."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.steering import intervention_of_picks
from sparsteer.steering.features import FeatureIndex, interest

from .conftest import SITES, Sparsteer

HOSTILE = ["\x1b[2Jwiped\x07 clean\x1b]0;owned\x07", "a\u202etxt.exe\u202c", "[bold red]markup[/]"]


@pytest.fixture(scope="session")
def hostile_cache(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A cache of texts that would change a terminal or hide what they say."""
    from sparsteer.cli.main import main

    folder = tmp_path_factory.mktemp("hostile")
    corpus = folder / "text.jsonl"
    lines = [json.dumps({"text": f"{number} {text}"}) for number in range(30) for text in HOSTILE]
    corpus.write_text("\n".join(lines) + "\n")
    words = ["--model", str(tiny_model_folder), "--dataset", str(corpus), "--site", SITES[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main(["cache", *words, "--context-length", "32", "--out", str(folder / "c")]) == 0
    return folder / "c"


@pytest.fixture
def run(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be given an index and picks."""
    shutil.copytree(run_folder / "sae", tmp_path / "run" / "sae")
    return tmp_path / "run"


def test_build_and_show(sparsteer: Sparsteer, run: Path, cache: Path) -> None:
    built = sparsteer("features", "build", run, "--cache", cache, "--examples", 5, "--json")
    assert built.status == 0
    assert built.values["rows"] == 5000 and built.values["n_latents"] == 48
    index = FeatureIndex.of_run(run)
    assert built.values["index"] == str(index.path)
    fired = index.statistics["fired"]
    number = int(fired.argmax())
    shown = sparsteer("features", "show", run, number, "--json")
    expected = json.loads(json.dumps(index.feature(number).to_dict()))
    assert shown.status == 0 and shown.values.pop("unit") == index.manifest["unit"]
    assert index.manifest["unit"].startswith("scaled units of the autoencoder")
    assert {name: shown.values[name] for name in expected} == expected
    text = sparsteer("features", "show", run, number, "--examples", 3).out
    for word in (
        "scaled units",
        "density",
        "max",
        "p99",
        "histogram",
        "positive logits",
        "nearest",
        "fires together with",
        "of its activation the token alone explains",
        "of its firings, at special tokens",
        "near misses",
    ):
        assert word in text
    feature = index.feature(number)
    shown = 3 + 3 + 2 * len(feature.quantiles) + 3
    assert text.count("⟦") == text.count("⟧") == shown
    for level in feature.quantiles:
        assert f"{level.low:.3g} to {level.high:.3g}, {100 * level.fraction:.1f}%" in text
    assert f"{feature.near_misses[0].pre_activation:8.3f}" in text
    peak = index.feature(number).top[0]
    assert f"⟦{peak.texts[peak.peak]}⟧" in text


def test_list(sparsteer: Sparsteer, run: Path, cache: Path) -> None:
    built = sparsteer("features", "build", run, "--cache", cache, "--logits", 0)
    index = FeatureIndex.of_run(run)
    largest = index.statistics["max_activation"]
    strongest = int(largest.argmax())
    interesting = int(interest(index).argmax())
    assert f"next: sparsteer features show {run} {interesting}\n" in built.out
    sparsteer("pick", run, "add", strongest, "--label", "the strongest")
    values = sparsteer("features", "list", run, "--top", 48, "--json").values
    shown = [feature["interest"] for feature in values["features"]]
    assert shown == sorted(shown, reverse=True) and shown[0] == interest(index).max() > 0
    words = ("features", "list", run, "--by", "max_activation")
    values = sparsteer(*words, "--top", 48, "--json").values
    fired = [number for number in range(48) if index.statistics["fired"][number]]
    assert values["never_fired"] == 48 - len(fired)
    assert sorted(feature["feature"] for feature in values["features"]) == fired
    shown = [feature["max_activation"] for feature in values["features"]]
    assert shown == sorted(shown, reverse=True) and shown[0] == largest.max()
    assert values["features"][0]["peaks"] == index.peak_texts(strongest, 4)
    assert values["features"][0]["pick"]["label"] == "the strongest"
    assert all(feature["pick"] is None for feature in values["features"][1:])
    rare = sparsteer("features", "list", run, "--by", "density", "--lowest", "--top", 5, "--json")
    densities = sorted(index.statistics["density"][number].item() for number in fired)
    assert [feature["density"] for feature in rare.values["features"]] == densities[:5]
    text = sparsteer(*words, "--top", 3).out
    assert len(text.splitlines()[0].replace(str(run), "")) < 110
    assert "the strongest" in text and f"{largest.max():.4g}" in text
    assert f"next: sparsteer features show {run} {strongest}" in text


def test_picks_become_an_intervention(sparsteer: Sparsteer, run: Path, cache: Path) -> None:
    assert sparsteer("features", "build", run, "--cache", cache, "--logits", 0).status == 0
    index = FeatureIndex.of_run(run)
    busy = index.statistics["fired"].argsort()[::-1][:2].tolist()
    sparsteer("pick", run, "add", *busy, "--strength", -1.5)
    sae = SparseAutoencoder.load(run)
    spec = intervention_of_picks(str(run), sae, SITES[1], tier="per_token", threshold=0.25)
    assert (spec.site, spec.tier, spec.threshold) == (SITES[1], "per_token", 0.25)
    expected = {number: (-1.5, index.max_activation(number)) for number in busy}
    found = {f.index: (f.sign * f.strength, f.max_activation) for f in spec.features}
    assert found == expected


@pytest.mark.slow
def test_hostile_text_is_shown_harmless(
    sparsteer: Sparsteer, run: Path, hostile_cache: Path
) -> None:
    assert sparsteer("features", "build", run, "--cache", hostile_cache).status == 0
    index = FeatureIndex.of_run(run)
    seen = ""
    for number in range(index.n_latents):
        seen += sparsteer("features", "show", run, number, "--examples", 20).out
    assert not [c for c in seen if unicodedata.category(c)[0] == "C" and c != "\n"]
    listed = sparsteer("features", "list", run, "--top", 48).out
    assert not [c for c in listed if unicodedata.category(c)[0] == "C" and c != "\n"]
    for written in ("⟨U+001B⟩", "⟨U+0007⟩", "⟨U+202E⟩"):
        assert written in seen
    assert "[bold red]" in seen.replace("⟦", "").replace("⟧", ""), "markup is text"


def test_a_feature_that_never_fired(sparsteer: Sparsteer, run: Path, cache: Path) -> None:
    sae = SparseAutoencoder.load(run)
    sae.b_enc.data[11] = -1e6
    shutil.rmtree(run / "sae")
    sae.save(run / "sae")
    assert sparsteer("features", "build", run, "--cache", cache, "--logits", 0).status == 0
    shown = sparsteer("features", "show", run, 11)
    assert shown.status == 0 and "never fired" in shown.out and "⟦" not in shown.out


def test_find(sparsteer: Sparsteer, run: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("aaa bb aab\nba ab aaaa\nabab bbba aa\n")
    (tmp_path / "n.txt").write_text("jih ghi\nhhij gigi jj\niij hgj hhh\n")
    words = ("features", "find", run, "--positive", tmp_path / "p.txt", "--negative")
    found = sparsteer(*words, tmp_path / "n.txt", "--top", 3, "--json")
    assert found.status == 0
    features = found.values["features"]
    assert len(features) == 3 and features[0]["auroc_mean"] >= features[1]["auroc_mean"]
    text = sparsteer(*words, tmp_path / "n.txt", "--top", 3).out
    for feature in features:
        assert f"{feature['auroc_mean']:.3f}" in text
    assert f"next: sparsteer features show {run} {features[0]['feature']}" in text
    assert "length alone: AUROC" in text and "chance alone" in text
    assert "fires most on" not in text, "there is no index yet"
    assert sparsteer("features", "build", run, "--cache", cache).status == 0
    assert "fires most on" in sparsteer(*words, tmp_path / "n.txt").out


@pytest.mark.slow
def test_find_more(sparsteer: Sparsteer, run: Path, cache: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / "p.txt").write_text("".join(f"aa{n} ab ba\u202e{n}\n" for n in range(14)))
    (tmp_path / "n.txt").write_text("".join(f"ji{n} gh hg{n}\n" for n in range(14)))
    words = ("features", "find", run, "--positive", tmp_path / "p.txt", "--negative")
    words = (*words, tmp_path / "n.txt", "--top", 2, "--outputs", 6, "--rank-by", "output_score")
    assert "has none; run" in sparsteer(*words, "--max-density", 0.5).error
    assert sparsteer("features", "build", run, "--cache", cache).status == 0
    words = (*words, "--max-density", 0.9, "--max-cosine", 0.05, "--group", 2, "--explain", 1)
    found = sparsteer(*words, "--json")
    assert found.status == 0
    values = found.values
    assert values["rank_by"] == "output_score" and values["outputs_measured"] == 6
    assert values["duplicates"][0].keys() == {"feature", "of", "by", "value"}
    assert values["features"][0]["texts"][0]["role"] == "for"
    shown = sparsteer(*words)
    assert "measuring what 6 features do to the next token" in shown.err
    assert "choosing a group of features: at most 171 fits to 18 texts" in shown.err
    first = values["features"][0]
    for part in (
        f"by output_score, of the 6 best by auroc_mean of {values['considered']} that fire",
        f"{first['output']['score']:.3f}",
        "duplicates of better features: ",
        f"AUROC on {values['group']['held_out_texts']} other texts",
        f"texts that speak for feature {first['feature']}:",
        "⟦",
        "⟨U+202E⟩",
    ):
        assert part in shown.out, part


def test_shared(sparsteer: Sparsteer, run: Path) -> None:
    found = sparsteer("features", "shared", run, 5, "--among", run, "--least-cosine", 0.2, "--json")
    own, again = found.values["dictionaries"]
    assert again["latents"][0]["feature"] == 5 and again["count"] == own["count"] + 1
    text = sparsteer("features", "shared", run, 5, "--among", run).out
    assert "5 (1.00)" in text and f"next: sparsteer features show {run} 5" in text
    assert "there is no feature 48" in sparsteer("features", "shared", run, 48).error


def test_search(sparsteer: Sparsteer, run: Path, cache: Path) -> None:
    assert sparsteer("features", "build", run, "--cache", cache).status == 0
    index = FeatureIndex.of_run(run)
    sparsteer("pick", run, "add", 5, "--label", "the \u202efifth")
    text = index.feature(int(index.statistics["fired"].argmax())).top[0].texts
    words = ("features", "search", run)
    by_text = sparsteer(*words, "--text", "".join(text), "--max-density", 1, "--top", 48, "--json")
    assert by_text.status == 0
    values = by_text.values
    assert values["by"] == "text" and values["site"] == SITES[1] and values["tokens"]
    scores = [feature["score"] for feature in values["features"]]
    assert scores and scores == sorted(scores, reverse=True)
    assert all(feature["firings"] for feature in values["features"])
    shown = sparsteer(*words, "--text", "".join(text)).out
    assert "share of their own largest activation x rarity" in shown and "next: sparsteer" in shown
    near = sparsteer(*words, "--near", 5, "--top", 3, "--json").values["features"]
    assert [n["feature"] for n in near] == [n.feature for n in index.feature(5).neighbors[:3]]
    labeled = sparsteer(*words, "--label", "fifth")
    assert labeled.status == 0 and "the ⟨U+202E⟩fifth" in labeled.out
    raised = next(
        token.text for token in index.feature(5).positive_logits or () if token.text.isalnum()
    )
    for flag in ("--logit", "--promotes"):
        found = sparsteer(*words, flag, raised, "--top", 48, "--json").values["features"]
        assert 5 in [feature["feature"] for feature in found]
    moved = sparsteer(*words, "--observable", "+a -b", "--top", 3, "--json").values
    effects = [abs(feature["effect"]) for feature in moved["features"]]
    assert len(effects) == 3 and effects == sorted(effects, reverse=True)
    assert moved["how"] == "gradient" and 0 < moved["chance_cosine"] < 1
    assert "of a random direction" in sparsteer(*words, "--observable", "+a -b").out
    assert "'a' on both sides" in sparsteer(*words, "--observable", "+a -a").error
    assert "--near is -1" in sparsteer(*words, "--near", -1).error
    assert "what to search for is missing" in sparsteer(*words).error
    assert "there is no feature 48" in sparsteer(*words, "--near", 48).error


def test_pick(sparsteer: Sparsteer, run: Path) -> None:
    assert "nothing is picked" in sparsteer("pick", run, "list").out
    added = sparsteer("pick", run, "add", 7, "--label", "\u202eevil", "--strength", "-2", "--json")
    assert added.status == 0
    assert added.values["picks"] == [
        {"feature": 7, "label": "\u202eevil", "note": "", "strength": -2.0}
    ]
    listed = sparsteer("pick", run, "list").out
    assert "7" in listed and "⟨U+202E⟩evil" in listed and "\u202e" not in listed
    assert json.loads((run / "picks.json").read_text())["picks"] == added.values["picks"]
    assert sparsteer("pick", run, "remove", 7, "--json").values["picks"] == []
    assert sparsteer("pick", run, "undo", "--json").values["picks"] == added.values["picks"]


@pytest.mark.slow
def test_picks_are_judged_and_rejected_ones_do_not_steer(
    sparsteer: Sparsteer, run: Path, cache: Path
) -> None:
    assert sparsteer("features", "build", run, "--cache", cache, "--logits", 0).status == 0
    busy = FeatureIndex.of_run(run).statistics["fired"].argsort()[::-1][:2].tolist()
    sparsteer("pick", run, "add", *busy, "--star", "--confidence", 4, "--verdict", "keep")
    rejected = sparsteer("pick", run, "add", busy[0], "--unstar", "--verdict", "reject", "--json")
    assert rejected.values["picks"] == [
        {"feature": busy[0], "label": "", "note": "", "strength": 1.0}
        | {"verdict": "reject", "confidence": 4},
        {"feature": busy[1], "label": "", "note": "", "strength": 1.0}
        | {"starred": True, "verdict": "keep", "confidence": 4},
    ]
    listed = sparsteer("pick", run, "list").out
    assert "reject" in listed and "keep" in listed and "*" in listed
    generate = ("generate", run, "--picks", run, "--prompt", "abc", "--max-new-tokens", 2, "--json")
    done = sparsteer(*generate)
    assert [f["index"] for f in done.values["intervention"]["features"]] == busy[1:]
    assert "left out: 1 rejected pick" in done.err
    sparsteer("pick", run, "add", busy[1], "--verdict", "reject")
    assert "are rejected, so none steers" in sparsteer(*generate).error
    back = sparsteer("pick", run, "add", busy[0], "--verdict", "none", "--confidence", 0, "--json")
    assert "verdict" not in back.values["picks"][0] and "confidence" not in back.values["picks"][0]
    assert sparsteer(*generate).status == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("features", "show", "RUN", 0), "holds no feature index; build it with `sparsteer"),
        (("features", "show", "RUN", "x"), "FEATURE is 'x', but must be a whole number"),
        (("features", "build", "RUN"), "--cache is missing"),
        (("features", "list", "RUN"), "holds no feature index; build it with `sparsteer"),
        (("features", "list", "RUN", "--by", "densty"), "perhaps you meant density"),
        (("features", "list", "RUN", "--top", 0), "--top is 0"),
        (("features", "build", "RUN", "--cache", "NOWHERE"), "NOWHERE"),
        (("features", "find", "RUN", "--positive", "P", "--negative", "P"), "P is not there"),
        (
            ("features", "find", "RUN", "--positive=P", "--negative=P", "--rank-by", "auc"),
            "--rank-by is 'auc'",
        ),
        (("features", "list", "RUN/sae"), "RUN/sae is a part of the run RUN, not a run; give RUN"),
        (("features", "show", "RUN/sae", 1), "RUN/sae is a part of the run RUN, not a run"),
        (("features", "build", "RUN/sae", "--cache", "C"), "RUN/sae is a part of the run RUN"),
        (("generate", "RUN/sae", "--feature", 1, "--prompt", "a"), "RUN/sae is a part of the run"),
        (("pick", "RUN/sae", "add", 1), "RUN/sae is a part of the run RUN, not a run; give RUN"),
        (
            ("pick", "NOWHERE", "list"),
            "NOWHERE does not exist; give the folder of a trained autoencoder",
        ),
        (
            ("features", "list", "."),
            ". holds no config.json; give the folder of a trained autoencoder",
        ),
        (("pick", "RUN", "add"), "needs the number of a feature"),
        (("pick", "RUN", "add", 48), "no feature 48; this autoencoder has features 0 to 47"),
        (("pick", "RUN", "drop", 1), "ACTION is 'drop'"),
        (("pick", "RUN", "add", 1, "--strength", "nan"), "--strength is nan"),
        (
            ("pick", "RUN", "add", 1, "--label", "\udcff"),
            r"--label is '\udcff', which is not UTF-8",
        ),
        (("pick", "RUN", "add", 1, "--note", "\udcff"), r"--note is '\udcff', which is not UTF-8"),
        (("pick", "RUN", "remove", 1), "feature 1 is not picked"),
        (("pick", "RUN", "undo"), "there is no change of the picks left to undo"),
        (("pick", "RUN", "undo", 1), "pick undo takes no feature, but 1 was given"),
        (("pick", "RUN", "list", "--star"), "--star goes with pick add only"),
        (("pick", "RUN", "add", 1, "--star", "--unstar"), "--star cannot stand beside --unstar"),
        (("pick", "RUN", "add", 1, "--verdict", "maybe"), "--verdict is 'maybe'"),
        (("pick", "RUN", "add", 1, "--confidence", 6), "--confidence is 6, but must be a whole"),
    ],
)
def test_wrong_input(
    sparsteer: Sparsteer, run: Path, words: tuple[object, ...], sentence: str
) -> None:
    done = sparsteer(*(str(word).replace("RUN", str(run)) for word in words))
    assert done.status == 2
    assert sentence.replace("RUN", str(run)) in done.error


def test_a_part_of_a_run_is_named_by_its_whole_path(
    sparsteer: Sparsteer, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run / "sae")
    error = sparsteer("features", "list", ".").error
    assert f"{run}/sae is a part of the run {run}, not a run; give {run}" in error


def test_an_index_or_picks_of_another_autoencoder(
    sparsteer: Sparsteer, run: Path, cache: Path
) -> None:
    assert sparsteer("features", "build", run, "--cache", cache, "--logits", 0).status == 0
    assert sparsteer("pick", run, "add", 1).status == 0
    shutil.rmtree(run / "sae")
    SparseAutoencoder(TopKConfig(32, 48, 4), seed=9).save(run / "sae")
    assert "another autoencoder" in sparsteer("features", "show", run, 1).error
    assert "another autoencoder" in sparsteer("features", "list", run).error
    assert "another autoencoder" in sparsteer("pick", run, "list").error
    (run / "p.txt").write_text("some words")
    words = ("features", "find", run, "--positive", run / "p.txt", "--negative", run / "p.txt")
    assert "another autoencoder" in sparsteer(*words).error
