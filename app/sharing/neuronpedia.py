"""Features in the layout that Neuronpedia imports: JSON Lines by table, in MODEL/SOURCE/.

Keys are those of the tables in its repository of August 2026 (`neuronpedia_utils.db_models`), and
the folders those that its admin page reads: release, model, sourceset and source, then features,
activations and explanations in batches of 256 features.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .chosen import Chosen, SharedFeature
from .config import ShareConfig
from .dashboards import batches, valid_text
from .layer import Place, place_of

CREATOR = "clkht01d40000jv08hvalcvly"
"""The user to whom Neuronpedia's own tools give what has no other owner."""

_CREATED = "2026-01-01T00:00:00"
"""The same for every export, so that the same features give the same bytes."""

_COPIED = (
    "neuron_alignment_indices",
    "neuron_alignment_values",
    "neuron_alignment_l1",
    "correlated_neurons_indices",
    "correlated_neurons_pearson",
    "correlated_neurons_l1",
    "correlated_features_indices",
    "correlated_features_pearson",
    "correlated_features_l1",
    "neg_str",
    "neg_values",
    "pos_str",
    "pos_values",
    "frac_nonzero",
    "freq_hist_data_bar_heights",
    "freq_hist_data_bar_values",
    "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values",
    "decoder_weights_dist",
)
"""Keys of SAEDashboard's that a feature's row has as they are."""


def write_neuronpedia(
    folder: Path,
    chosen: Chosen,
    config: ShareConfig,
    report: Callable[[int, int, str], None],
) -> None:
    """Write the tables.

    Args:
        folder: an empty folder.
        chosen: the features.
        config: names and how many examples.
        report: told of progress.
    """
    place = place_of(chosen, config)
    source = folder / place.model_id / place.source_id
    source.mkdir(parents=True)
    for number, batch in enumerate(batches(chosen, place, config.examples, report)):
        dashboards: list[dict[str, Any]] = batch["features"]
        shared = [chosen.feature(each["feature_index"]) for each in dashboards]
        tables = {
            "features": [_feature(*both, place) for both in zip(dashboards, shared, strict=True)],
            "activations": [row for each in dashboards for row in _activations(each, place)],
            "explanations": [_explanation(each, place) for each in shared if each.label],
        }
        if number == 0:
            for name, row in _descriptions(chosen, place, dashboards).items():
                (source / f"{name}.jsonl").write_bytes(_lines([row]))
        for name, rows in tables.items():
            if not rows:
                continue
            (source / name).mkdir(exist_ok=True)
            # No time in the header, so that the same features give the same bytes.
            content = gzip.compress(_lines(rows), mtime=0)
            (source / name / f"batch-{number}.jsonl.gz").write_bytes(content)


def _descriptions(
    chosen: Chosen, place: Place, dashboards: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The rows of what the features belong to."""
    common = {"creatorId": CREATOR, "createdAt": _CREATED}
    release = f"sparsteer-{place.source_set}"
    described = f"sparse autoencoder of {place.site}, {chosen.index.n_latents} features"
    return {
        "release": {
            **common,
            "name": release,
            "description": described,
            "creatorName": "sparsteer",
            "visibility": "PUBLIC",
            "isNewUi": False,
            "featured": False,
            "descriptionShort": described,
            "urls": [],
            "creatorEmail": None,
            "creatorNameShort": "sparsteer",
            "defaultSourceSetName": None,
            "defaultSourceId": None,
            "defaultUmapSourceIds": [],
        },
        "model": {
            **common,
            "id": place.model_id,
            "instruct": False,
            "displayNameShort": place.model_id,
            "displayName": place.model_id,
            "tlensId": None,
            "dimension": None,
            "visibility": "PUBLIC",
            "defaultSourceSetName": None,
            "defaultSourceId": None,
            "inferenceEnabled": False,
            "layers": 0,
            "neuronsPerLayer": 0,
            "owner": "",
            "updatedAt": _CREATED,
            "website": None,
        },
        "sourceset": {
            **common,
            "modelId": place.model_id,
            "name": place.source_set,
            "hasDashboards": True,
            "visibility": "PUBLIC",
            "description": described,
            "type": "",
            "creatorName": "sparsteer",
            "urls": [],
            "creatorEmail": None,
            "releaseName": release,
            "defaultOfModelId": None,
            "defaultRange": 1,
            "defaultShowBreaks": True,
            "showDfa": False,
            "showCorrelated": False,
            "showHeadAttribution": False,
            "showUmap": False,
        },
        "source": {
            **common,
            "id": place.source_id,
            "modelId": place.model_id,
            "setName": place.source_set,
            "hasDashboards": True,
            "inferenceEnabled": False,
            "inferenceHosts": [],
            "saelensConfig": None,
            "saelensRelease": None,
            "saelensSaeId": None,
            "hfRepoId": None,
            "hfFolderId": None,
            "visibility": "PUBLIC",
            "defaultOfModelId": None,
            "hasUmap": False,
            "hasUmapLogSparsity": False,
            "hasUmapClusters": False,
            "num_prompts": dashboards[0]["n_prompts_total"],
            "num_tokens_in_prompt": dashboards[0]["n_tokens_in_prompt"],
            "dataset": dashboards[0]["dataset"],
            "notes": None,
        },
    }


def _feature(dashboard: dict[str, Any], shared: SharedFeature, place: Place) -> dict[str, Any]:
    neighbors = shared.feature.neighbors
    return {
        **_where(dashboard["feature_index"], place),
        "creatorId": CREATOR,
        "createdAt": _CREATED,
        "maxActApprox": shared.feature.max_activation,
        "hasVector": False,
        "vector": [],
        "vectorLabel": None,
        "vectorDefaultSteerStrength": 10,
        "hookName": None,
        "topkCosSimIndices": [neighbor.feature for neighbor in neighbors],
        "topkCosSimValues": [round(neighbor.cosine, 4) for neighbor in neighbors],
        **{key: dashboard[key] for key in _COPIED},
        "sourceSetName": place.source_set,
    }


def _activations(dashboard: dict[str, Any], place: Place) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, activation in enumerate(dashboard["activations"]):
        values: list[float] = activation["values"]
        where = _where(dashboard["feature_index"], place)
        rows.append(
            {
                "id": _id("activation", where, number),
                "tokens": activation["tokens"],
                **where,
                "maxValue": max(values),
                "maxValueTokenIndex": values.index(max(values)),
                "minValue": min(values),
                "values": values,
                "creatorId": CREATOR,
                "dataSource": None,
                "dataIndex": None,
                "dfaValues": [],
                "dfaTargetIndex": None,
                "dfaMaxValue": None,
                "createdAt": _CREATED,
                "lossValues": [],
                "logitContributions": None,
                "binMin": activation["bin_min"],
                "binMax": activation["bin_max"],
                "binContains": activation["bin_contains"],
                "qualifyingTokenIndex": activation["qualifying_token_index"],
                "zIndices": None,
                "zValues": None,
            }
        )
    return rows


def _explanation(shared: SharedFeature, place: Place) -> dict[str, Any]:
    """A label; a machine's has the model in its notes, since its own field there names only models
    that Neuronpedia knows."""
    where = _where(shared.feature.feature, place)
    notes = shared.pick.note if shared.pick else ""
    if shared.is_machine_made and shared.machine_label:
        machine = shared.machine_label
        notes = f"machine-made by {machine.model}, {machine.shown_score}"
    return {
        "id": _id("explanation", where, 0),
        **where,
        "description": valid_text(shared.label),
        "authorId": CREATOR,
        "embedding": None,
        "triggeredById": None,
        "typeName": None,
        "explanationModelName": None,
        "notes": valid_text(notes) or None,
        "createdAt": _CREATED,
    }


def _where(feature: int, place: Place) -> dict[str, str]:
    return {"modelId": place.model_id, "layer": place.source_id, "index": str(feature)}


def _id(kind: str, where: dict[str, str], number: int) -> str:
    """An identifier of 25 characters, as of theirs: the same for the same row."""
    content = json.dumps([kind, where, number], sort_keys=True)
    return "c" + hashlib.sha256(content.encode()).hexdigest()[:24]


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
