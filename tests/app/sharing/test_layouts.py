"""Neuronpedia's and SAEDashboard's layouts: their keys, and the index's numbers under them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sparsteer.app.sharing.config import ShareConfig
from sparsteer.app.sharing.exporting import export_features
from sparsteer.sae import InputError
from sparsteer.sae.common.checksums import read_checked_json, write_checked_json
from sparsteer.steering.features import FeatureIndex
from sparsteer.steering.features.listing import ranked

# The fields of SAEDashboard's NeuronpediaDashboardBatch, -Feature and -Activation, May 2026.
BATCH = {"model_id", "layer", "sae_set", "sae_id_suffix", "features"}
DASHBOARD = {
    *("feature_index", "neuron_alignment_indices", "neuron_alignment_values"),
    *("neuron_alignment_l1", "correlated_neurons_indices", "correlated_neurons_l1"),
    *("correlated_neurons_pearson", "correlated_features_indices", "correlated_features_l1"),
    *("correlated_features_pearson", "neg_str", "neg_values", "pos_str", "pos_values"),
    *("frac_nonzero", "freq_hist_data_bar_values", "freq_hist_data_bar_heights"),
    *("logits_hist_data_bar_heights", "logits_hist_data_bar_values", "n_prompts_total"),
    *("n_tokens_in_prompt", "dataset", "decoder_weights_dist", "activations", "vector"),
}
DASHBOARD_ACTIVATION = {
    *("bin_min", "bin_max", "bin_contains", "tokens", "values", "qualifying_token_index"),
}
# The fields of neuronpedia_utils.db_models, August 2026.
TABLES = {
    "features": {
        *("modelId", "layer", "index", "creatorId", "createdAt", "maxActApprox", "hasVector"),
        *("vector", "vectorLabel", "vectorDefaultSteerStrength", "hookName", "sourceSetName"),
        *("topkCosSimIndices", "topkCosSimValues"),
        *DASHBOARD - {"feature_index", "n_prompts_total", "n_tokens_in_prompt", "dataset"},
    }
    - {"activations"},
    "activations": {
        *("id", "tokens", "index", "layer", "modelId", "maxValue", "maxValueTokenIndex"),
        *("minValue", "values", "creatorId", "dataSource", "dataIndex", "dfaValues"),
        *("dfaTargetIndex", "dfaMaxValue", "createdAt", "lossValues", "logitContributions"),
        *("binMin", "binMax", "binContains", "qualifyingTokenIndex", "zIndices", "zValues"),
    },
    "explanations": {
        *("id", "modelId", "layer", "index", "description", "authorId", "embedding"),
        *("triggeredById", "typeName", "explanationModelName", "notes", "createdAt"),
    },
    "release": {
        *("name", "description", "creatorName", "creatorId", "visibility", "isNewUi", "featured"),
        *("descriptionShort", "urls", "creatorEmail", "creatorNameShort", "createdAt"),
        *("defaultSourceSetName", "defaultSourceId", "defaultUmapSourceIds"),
    },
    "model": {
        *("id", "instruct", "creatorId", "displayNameShort", "displayName", "tlensId", "layers"),
        *("dimension", "visibility", "defaultSourceSetName", "defaultSourceId", "createdAt"),
        *("inferenceEnabled", "neuronsPerLayer", "owner", "updatedAt", "website"),
    },
    "sourceset": {
        *("modelId", "name", "creatorId", "hasDashboards", "visibility", "description", "type"),
        *("creatorName", "urls", "creatorEmail", "releaseName", "defaultOfModelId"),
        *("defaultRange", "defaultShowBreaks", "showDfa", "showCorrelated"),
        *("showHeadAttribution", "showUmap", "createdAt"),
    },
    "source": {
        *("id", "modelId", "setName", "creatorId", "hasDashboards", "inferenceEnabled"),
        *("inferenceHosts", "saelensConfig", "saelensRelease", "saelensSaeId", "hfRepoId"),
        *("hfFolderId", "visibility", "defaultOfModelId", "hasUmap", "hasUmapLogSparsity"),
        *("hasUmapClusters", "num_prompts", "num_tokens_in_prompt", "dataset", "notes"),
        "createdAt",
    },
}


def export(run: Path, folder: Path, layout: str, **settings: Any) -> list[int]:
    config = ShareConfig(run=str(run), static=str(folder), format=layout, **settings)  # pyright: ignore[reportArgumentType] - one of three
    return export_features(config)["features"]


def rows_of(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    return [json.loads(line) for line in text.decode().splitlines()]


@pytest.mark.slow
def test_saedashboards_batches(
    picked_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsteer.app.sharing.dashboards.FEATURES_IN_BATCH", 16)
    index = FeatureIndex(picked_run)
    numbers = export(picked_run, tmp_path / "out", "saedashboard", all=True, examples=4)
    n_batches = -(-len(numbers) // 16)
    names = {f"batch-{number}.json" for number in range(n_batches)}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *names,
        "skipped_indexes.json",
        "sparsteer-export.json",
    }
    found: list[int] = []
    for number in range(n_batches):
        batch = json.loads((tmp_path / "out" / f"batch-{number}.json").read_text())
        assert set(batch) == BATCH
        assert (batch["layer"], batch["sae_set"], batch["sae_id_suffix"]) == (1, "res-40", None)
        assert batch["model_id"] == "tiny" and len(batch["features"]) <= 16
        for each in batch["features"]:
            assert set(each) == DASHBOARD
            feature = index.feature(each["feature_index"])
            found.append(feature.feature)
            assert each["frac_nonzero"] == feature.density
            assert sum(each["freq_hist_data_bar_heights"]) == feature.fired
            assert len(each["freq_hist_data_bar_values"]) == len(each["freq_hist_data_bar_heights"])
            assert feature.positive_logits is not None
            assert each["pos_values"] == [round(t.logit, 3) for t in feature.positive_logits]
            top = [a for a in each["activations"] if a["bin_min"] == -1]
            assert len(top) == len(feature.top[:4])
            for shown, example in zip(top, feature.top, strict=False):
                assert set(shown) == DASHBOARD_ACTIVATION
                assert shown["values"] == [round(value, 3) for value in example.activations]
                assert len(shown["tokens"]) == len(shown["values"])
                at = shown["qualifying_token_index"]
                assert shown["values"][at] == round(example.activation, 3)
            for other in each["activations"][len(top) :]:
                peak = other["values"][other["qualifying_token_index"]]
                assert other["bin_min"] - 0.001 <= peak <= other["bin_max"] + 0.001
                assert 0 < other["bin_contains"] <= 1
    assert found == numbers
    skipped = json.loads((tmp_path / "out" / "skipped_indexes.json").read_text())
    assert set(skipped["skipped_indexes"]) == set(range(40)) - set(ranked(index, "density"))
    assert (skipped["model_id"], skipped["layer"], skipped["sae_set"]) == ("tiny", "1", "res-40")


def test_neuronpedias_tables(picked_run: Path, tmp_path: Path) -> None:
    index = FeatureIndex(picked_run)
    numbers = export(picked_run, tmp_path / "out", "neuronpedia", examples=4)
    source = tmp_path / "out" / "tiny" / "1-res-40"
    tables: dict[str, list[dict[str, Any]]] = {}
    for name, keys in TABLES.items():
        folder = name in ("features", "activations", "explanations")
        path = source / (f"{name}/batch-0.jsonl.gz" if folder else f"{name}.jsonl")
        tables[name] = rows_of(path)
        for row in tables[name]:
            assert set(row) == keys, name
    assert [int(row["index"]) for row in tables["features"]] == numbers
    for row in tables["features"]:
        feature = index.feature(int(row["index"]))
        assert row["maxActApprox"] == feature.max_activation
        assert row["topkCosSimIndices"] == [n.feature for n in feature.neighbors]
        assert (row["modelId"], row["layer"]) == ("tiny", "1-res-40")
    for row in tables["activations"]:
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
        assert row["minValue"] == min(row["values"])
    ids = [row["id"] for name in ("activations", "explanations") for row in tables[name]]
    assert len(set(ids)) == len(ids) and all(len(each) == 25 for each in ids)
    (source_row,), (set_row,) = tables["source"], tables["sourceset"]
    assert source_row["setName"] == set_row["name"] == "res-40"
    assert set_row["releaseName"] == tables["release"][0]["name"]
    first, second, third = tables["explanations"]
    assert first["description"].startswith("mine <script>") and first["notes"].startswith("a note")
    assert second["description"] == "plain words" and second["notes"] is None
    assert third["description"].startswith("of a machine")
    assert third["notes"].startswith("machine-made by model") and "detection 0.88" in third["notes"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["neuronpedia", "saedashboard"])
def test_every_text_is_valid_and_without_nul(run: Path, tmp_path: Path, layout: str) -> None:
    export(run, tmp_path / "out", layout, all=True)
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            text = json.dumps(rows_of(path)) if "jsonl" in path.name else path.read_text()
            assert "\\u0000" not in text and "\\udc" not in text and "NaN" not in text


def test_names_can_be_given(run: Path, tmp_path: Path) -> None:
    export(
        run, tmp_path / "out", "neuronpedia", feature=(1,), model_id="gpt2", source_set="res-mine"
    )
    assert (tmp_path / "out" / "gpt2" / "0-res-mine").exists() is False
    assert (tmp_path / "out" / "gpt2" / "1-res-mine" / "model.jsonl").is_file()


def test_a_site_in_no_layer_is_refused(run: Path, tmp_path: Path) -> None:
    manifest = run / "features" / "manifest.json"
    values = read_checked_json(manifest, "manifest")
    write_checked_json(manifest, {**values, "site": "ln_final.hook_normalized"})
    with pytest.raises(InputError, match=r"ln_final.hook_normalized is in no layer"):
        export(run, tmp_path / "out", "neuronpedia", feature=(1,))
    assert not (tmp_path / "out").exists()
    export(run, tmp_path / "out", "static", feature=(1,))
