"""Opening and reading an index, and everything that does not belong together."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsteer.sae import InputError, LanguageModel, Origin, SparseAutoencoder
from sparsteer.sae.common.checksums import recorded_files, write_checked_json
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.fingerprint import sae_fingerprint
from sparsteer.steering.features import BuildConfig, FeatureIndex, build_index
from sparsteer.steering.features.parquet import read_columns, write_columns

from ...tiny_runs import SITE, cache_of_texts

N_LATENTS = 24


@pytest.fixture(scope="module")
def cache(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    texts = [f"{word} {number}" for word in ("one", "two", "three") for number in range(40)]
    return cache_of_texts(folder, tiny_model, texts, context_length=32)


def config_of(run: Path, cache: Path, **changes: Any) -> BuildConfig:
    return BuildConfig(run=str(run), cache=str(cache), device="cpu", **changes)


def sae_of(model: LanguageModel, *, site: str = SITE) -> SparseAutoencoder:
    origin = Origin(model=model.name, site=site, weights_hash=model.weights_hash)
    return SparseAutoencoder(TopKConfig(model.d_model, N_LATENTS, 4), seed=1, origin=origin)


@pytest.fixture(scope="module")
def run(tiny_model: LanguageModel, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its index."""
    run = tmp_path_factory.mktemp("run")
    sae_of(tiny_model).save(run / "sae")
    build_index(config_of(run, cache), model=tiny_model)
    return run


def test_a_run_or_its_index_can_be_opened(run: Path) -> None:
    given = FeatureIndex(run).feature(5)
    assert FeatureIndex(run / "features").feature(5) == given
    assert FeatureIndex.of_run(str(run)).feature(5) == given
    assert given.top and given.positive_logits and given.neighbors


def test_a_file_that_is_cut_while_it_is_read(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run / "features", tmp_path / "features")
    index = FeatureIndex(folder)
    assert index.feature(5).top
    path = folder / "top_tokens.npy"
    path.write_bytes(b"")  # in place: the mapping has no pages behind it
    for read in (lambda: index.feature(5), lambda: index.peak_texts(5, 3), index.peaks):
        with pytest.raises(InputError, match=r"top_tokens.npy has 0 bytes, .*; build the index"):
            read()


def test_files_that_are_missing_or_of_another_size(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run / "features", tmp_path / "features")
    index = FeatureIndex(folder)
    index.require_files()
    path = folder / "random_tokens.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"random_tokens.npy has .* not as many as were written"):
        index.require_files()
    path.unlink()
    with pytest.raises(InputError, match=r"random_tokens.npy is missing; build the index again"):
        index.require_files()


def test_a_cache_of_another_model(tmp_path: Path, cache: Path, tiny_model: LanguageModel) -> None:
    sae = sae_of(tiny_model)
    sae.origin = Origin(model="other/model", site=SITE, weights_hash="f" * 64)
    sae.save(tmp_path / "sae")
    with pytest.raises(InputError, match="other/model"):
        build_index(config_of(tmp_path, cache), model=tiny_model)
    assert not (tmp_path / "features").exists()


def test_a_cache_of_another_width(tmp_path: Path, cache: Path, tiny_model: LanguageModel) -> None:
    SparseAutoencoder(TopKConfig(8, 20, 2)).save(tmp_path / "sae")
    with pytest.raises(InputError, match=r"width 8.*has width 32"):
        build_index(config_of(tmp_path, cache), model=tiny_model)


def test_a_cache_without_the_site(tmp_path: Path, cache: Path, tiny_model: LanguageModel) -> None:
    sae_of(tiny_model, site="blocks.2.hook_resid_post").save(tmp_path / "sae")
    with pytest.raises(InputError, match=r"no site 'blocks.2.hook_resid_post'.*blocks.1"):
        build_index(config_of(tmp_path, cache), model=tiny_model)
    assert build_index(config_of(tmp_path, cache, site=SITE), model=tiny_model)["site"] == SITE


def test_an_autoencoder_of_unknown_origin(
    tmp_path: Path, cache: Path, tiny_model: LanguageModel
) -> None:
    sae = sae_of(tiny_model)
    sae.origin = None
    sae.save(tmp_path / "sae")
    assert build_index(config_of(tmp_path, cache), model=tiny_model)["site"] == SITE


def test_a_language_model_of_other_weights(
    tmp_path: Path, cache: Path, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae_of(tiny_model).save(tmp_path / "sae")
    monkeypatch.setattr(tiny_model, "_hash_weights", lambda: "0" * 64)
    sae = SparseAutoencoder.load(tmp_path)
    assert sae.origin is not None
    with pytest.raises(InputError, match="other weights"):
        build_index(config_of(tmp_path, cache), model=tiny_model)
    said: list[str] = []
    build_index(
        config_of(tmp_path, cache, allow_other_weights=True), model=tiny_model, say=said.append
    )
    assert any("other weights than" in sentence for sentence in said)


@pytest.mark.parametrize("name", ["run", "cache"])
def test_a_missing_folder(tmp_path: Path, run: Path, cache: Path, name: str) -> None:
    folders = {"run": run, "cache": cache, name: tmp_path / "nowhere"}
    with pytest.raises(InputError, match="nowhere"):
        build_index(config_of(folders["run"], folders["cache"]))


def test_an_index_of_another_autoencoder(run: Path, tmp_path: Path) -> None:
    fingerprint = sae_fingerprint(SparseAutoencoder.load(run))
    assert FeatureIndex(run, sae=fingerprint).manifest["sae"] == fingerprint
    with pytest.raises(InputError, match=r"another autoencoder.*features build"):
        FeatureIndex(run, sae="0" * 64)


def test_a_run_trained_anew_under_an_old_index(
    tmp_path: Path, cache: Path, tiny_model: LanguageModel
) -> None:
    sae = sae_of(tiny_model)
    sae.save(tmp_path / "sae")
    build_index(config_of(tmp_path, cache), model=tiny_model)
    sae.W_dec.data[3, 2] += 0.25
    sae.save(tmp_path / "sae")
    with pytest.raises(InputError, match="another autoencoder"):
        FeatureIndex.of_run(tmp_path)


def test_the_fingerprint_is_of_content(tmp_path: Path, tiny_model: LanguageModel) -> None:
    sae = sae_of(tiny_model)
    given = sae_fingerprint(sae)
    sae.save(tmp_path / "elsewhere")
    sae.origin = None
    assert sae_fingerprint(SparseAutoencoder.load(tmp_path / "elsewhere")) == given
    assert sae_fingerprint(sae) == given
    changes: dict[str, Callable[[SparseAutoencoder], object]] = {
        "weight": lambda sae: sae.b_enc.data[0].add_(1e-6),
        "scale": lambda sae: sae.input_scale.mul_(2),
        "center": lambda sae: sae.input_center.add_(1),
    }
    for name, change in changes.items():
        other = sae_of(tiny_model)
        change(other)
        assert sae_fingerprint(other) != given, name
    other_k = SparseAutoencoder(TopKConfig(32, N_LATENTS, 5))
    other_k.load_state_dict(sae.state_dict())
    assert sae_fingerprint(other_k) != given


def test_a_missing_index_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "sae").mkdir()
    (tmp_path / "sae" / "config.json").touch()
    with pytest.raises(InputError, match=f"`sparsteer features build {tmp_path} --cache DIR`"):
        FeatureIndex.of_run(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        FeatureIndex(tmp_path / "nowhere")


@pytest.mark.parametrize("number", [-1, N_LATENTS])
def test_an_unknown_feature_names_the_range(run: Path, number: int) -> None:
    index = FeatureIndex(run)
    for read in (index.feature, index.max_activation):
        with pytest.raises(InputError, match=f"no feature {number}.*0 to {N_LATENTS - 1}"):
            read(number)
    with pytest.raises(InputError, match=f"no feature {number}"):
        index.peak_texts(number, 3)


def read_all(run: Path) -> None:
    """Everything that a reader of an index asks it for, of its last feature."""
    index = FeatureIndex(run, sae=sae_fingerprint(SparseAutoencoder.load(run)))
    index.max_activation(N_LATENTS - 1)
    index.peak_texts(N_LATENTS - 1, 2)
    index.feature(N_LATENTS - 1)


@pytest.fixture
def damaged(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged; its last feature has examples to read.

    Its index is of version 1, which has no checksums, so that what is damaged is found by itself.
    """
    shutil.copytree(run, tmp_path / "run")
    manifest = tmp_path / "run" / "features" / "manifest.json"
    values = json.loads(manifest.read_text())
    del values["sha256"], values["files"]
    manifest.write_text(json.dumps(values | {"version": 1}))
    statistics = manifest.parent / "statistics.parquet"
    new = ("special_fraction", "token_explained")
    columns = read_columns(statistics, "").items()
    write_columns(
        statistics, {name: column.to_numpy() for name, column in columns if name not in new}
    )
    for name in ("quantiles", "near_misses", "coactivating", "lens"):
        del values[name]
    manifest.write_text(json.dumps(values | {"version": 1}))
    assert FeatureIndex(run).feature(N_LATENTS - 1).top
    return tmp_path / "run"


def test_an_index_of_before_is_read(damaged: Path, run: Path) -> None:
    manifest = damaged / "features" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["promoted"] = values.pop("logits")
    manifest.write_text(json.dumps(values))
    before, now = (FeatureIndex(path).feature(3) for path in (damaged, run))
    for name in ("random", "positive_logits", "negative_logits", "neighbors", "histogram"):
        assert getattr(before, name) == getattr(now, name) and getattr(now, name)
    assert [example.row for example in before.top] == [example.row for example in now.top]


def test_an_index_of_version_2_lacks_what_is_new(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "features"
    for kind in ("quantile", "near_miss", "coactivating"):
        for path in folder.glob(f"{kind}_*.npy"):
            path.unlink()
    (folder / "top_duplicates.npy").unlink()
    columns = read_columns(folder / "statistics.parquet", "")
    new = ("special_fraction", "token_explained")
    old = {name: column.to_numpy() for name, column in columns.items() if name not in new}
    write_columns(folder / "statistics.parquet", old)
    values = json.loads((folder / "manifest.json").read_text())
    del values["sha256"], values["files"]
    for name in ("quantiles", "quantile_examples", "near_misses", "coactivating", "lens"):
        del values[name]
    names = (path.name for path in folder.iterdir() if path.name != "manifest.json")
    files = recorded_files(folder, names)
    write_checked_json(folder / "manifest.json", {**values, "version": 2, "files": files})
    before, now = (FeatureIndex(path).feature(5) for path in (tmp_path / "run", run))
    assert now.quantiles and now.near_misses and now.coactivating
    assert before.quantiles == before.near_misses == before.coactivating == ()
    assert before.special_fraction is before.token_explained is before.lens is None
    assert before.top[0].row == now.top[0].row and before.random == now.random


@pytest.mark.slow
def test_one_changed_bit_in_any_file_is_found(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    source = random.Random(4)
    files = sorted((tmp_path / "run" / "features").iterdir())
    assert {path.suffix for path in files} == {".json", ".npy", ".parquet"}
    for path in files:
        whole = path.read_bytes()
        for place in (0, len(whole) - 1, *(source.randrange(len(whole)) for _ in range(4))):
            changed = bytearray(whole)
            changed[place] ^= 1 << source.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(InputError) as caught:
                read_all(tmp_path / "run")
            assert str(path.name) in str(caught.value) or path.suffix == ".json"
        path.write_bytes(whole)
    read_all(tmp_path / "run")


def assert_says_to_build(run: Path, name: str) -> None:
    with pytest.raises(InputError) as raised:
        read_all(run)
    assert name in str(raised.value)
    assert f"build the index again with `sparsteer features build {run} --cache DIR`" in str(
        raised.value
    )


@pytest.mark.parametrize("n_bytes", [0, 40, 200])
@pytest.mark.parametrize(
    "name",
    [
        "top_rows.npy",
        "random_activations.npy",
        "promoted_values.npy",
        "statistics.parquet",
        "vocabulary.parquet",
        "manifest.json",
    ],
)
def test_a_file_of_an_index_that_ends_too_early(damaged: Path, name: str, n_bytes: int) -> None:
    read_all(damaged)
    file = damaged / "features" / name
    file.write_bytes(file.read_bytes()[:n_bytes])
    assert_says_to_build(damaged, name)


@pytest.mark.parametrize("name", ["histogram", "top_tokens", "random_docs", "neighbour_values"])
def test_an_array_that_lacks_rows(damaged: Path, name: str) -> None:
    file = damaged / "features" / f"{name}.npy"
    np.save(file, np.load(file)[:-1])
    assert_says_to_build(damaged, name)


@pytest.mark.parametrize("name", ["histogram", "top_tokens", "random_docs", "neighbour_values"])
def test_an_array_that_lacks_columns(damaged: Path, name: str) -> None:
    file = damaged / "features" / f"{name}.npy"
    np.save(file, np.load(file)[..., :-1])
    assert_says_to_build(damaged, name)


def test_a_header_that_is_damaged(damaged: Path) -> None:
    file = damaged / "features" / "top_rows.npy"
    content = file.read_bytes()
    for brace in (b"{", b"}", b")"):
        file.write_bytes(content.replace(brace, b"#", 1))
        assert_says_to_build(damaged, "top_rows")


def test_an_array_of_python_objects(damaged: Path) -> None:
    file = damaged / "features" / "top_rows.npy"
    np.save(file, np.load(file).astype(object), allow_pickle=True)
    assert_says_to_build(damaged, "top_rows")


def test_statistics_of_other_columns_or_fewer_rows(damaged: Path) -> None:
    file = damaged / "features" / "statistics.parquet"
    columns = {name: column.to_numpy() for name, column in read_columns(file, "").items()}
    write_columns(file, columns)
    read_all(damaged)
    write_columns(file, {name: column[:-1] for name, column in columns.items()})
    assert_says_to_build(damaged, "statistics.parquet")
    del columns["density"]
    write_columns(file, columns)
    assert_says_to_build(damaged, "statistics.parquet")


def test_a_vocabulary_without_bytes(damaged: Path) -> None:
    write_columns(damaged / "features" / "vocabulary.parquet", {"byte": [b"a"]})
    assert_says_to_build(damaged, "vocabulary.parquet has no column 'bytes'")


@pytest.mark.parametrize("value", [None, "seven"])
@pytest.mark.parametrize("key", ["sae", "n_latents", "before", "examples", "histogram_edges"])
def test_a_manifest_without_a_key(damaged: Path, key: str, value: str | None) -> None:
    file = damaged / "features" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest[key] = 7 if (key, value) == ("sae", "seven") else value
    if value is None:
        del manifest[key]
    file.write_text(json.dumps(manifest))
    assert_says_to_build(damaged, f"damaged at its key '{key}'")


@pytest.mark.parametrize(
    ("key", "value"),
    [("n_latents", -1), ("before", -1), ("examples", -3), ("rows", -2), ("histogram_edges", ["a"])],
)
def test_a_manifest_with_a_value_that_cannot_be(damaged: Path, key: str, value: object) -> None:
    file = damaged / "features" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    assert_says_to_build(damaged, f"damaged at its key '{key}'")


def test_an_index_of_a_later_version(tmp_path: Path) -> None:
    values = {"format": "sparsteer-features", "version": 99}
    write_checked_json(tmp_path / "manifest.json", values)
    with pytest.raises(InputError, match=r"no feature index that this sparsteer reads.*build"):
        FeatureIndex(tmp_path)


def test_peak_texts(run: Path) -> None:
    index = FeatureIndex(run)
    several = 0
    for number in range(N_LATENTS):
        ids = dict.fromkeys(example.tokens[example.peak] for example in index.feature(number).top)
        expected = ["".join(index.vocabulary.texts([id_])) for id_ in ids]
        assert index.peak_texts(number, 2) == expected[:2]
        several += len(expected) > 2
    assert several


def test_a_feature_as_json(run: Path) -> None:
    values = json.loads(json.dumps(FeatureIndex(run).feature(3).to_dict(), allow_nan=False))
    assert values["feature"] == 3 and values["top"][0]["tokens"]
    assert len(values["histogram_edges"]) == len(values["histogram"]) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": 0}, "examples is 0"),
        ({"before": -1}, "before is -1"),
        ({"rows": 0}, "rows is 0"),
        ({"outlier_norm": -1.0}, "outlier_norm is -1"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildConfig(run="run", cache="cache", **changes)


def test_reading_imports_no_language_model() -> None:
    program = (
        "import sys\n"
        "from sparsteer.steering.features import BuildConfig, FeatureIndex, Picks\n"
        "slow = ('torch', 'transformers', 'transformer_lens', 'datasets', 'wandb', 'pyarrow')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
