"""What is known of a run that is published: read once, without paths of this machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.common.files import read_json
from ...sae.common.shipped import is_shipped
from ...sae.fetching.artifacts import ARTIFACTS
from ...sae.fingerprint import sae_fingerprint
from ...sae.language_model.names import public_name
from ...training.run import SETTINGS, RunFolder
from .config import PublishConfig

EVALUATION = "evaluation.json"
_MEASURED = (
    *("fingerprint", "rows", "documents", "fvu", "l0", "decoder_overlap"),
    *("density_histogram", "norms", "language_model"),
)
"""What the card and its plots take from an evaluation."""

_OF_THIS_MACHINE = ("out", "cache", "track")
"""Settings of a run that say nothing to other people."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A run, and what is said of it to other people."""

    config: PublishConfig
    sae: SparseAutoencoder
    settings: Mapping[str, Any]
    """How it was trained, as config.yaml has it."""
    environment: Mapping[str, Any]
    summary: Mapping[str, Any]
    """Of the training, with its measures on held-out rows."""
    points: list[dict[str, float | int]]
    """The curves of the training; see `RunFolder.curve`."""
    evaluation: Mapping[str, Any] | None
    """What `evaluate_all` found; None if that was not measured."""

    @property
    def model(self) -> str | None:
        """The language model by its name for other people; None if it is unknown."""
        if self.config.base_model or self.sae.origin is None:
            return self.config.base_model
        return public_name(self.sae.origin.model)

    @property
    def hub_model(self) -> str | None:
        """The language model by its name on the hub; None if it has none."""
        artifact = ARTIFACTS.get(self.model or "")
        name = artifact.hub_name if artifact else self.model
        return name if name and not name.startswith("./") else None

    @property
    def dataset(self) -> str | None:
        """The corpus by its name for other people; None if it is unknown."""
        origin = self.sae.origin
        return None if origin is None or origin.dataset is None else public_name(origin.dataset)


def read_run(config: PublishConfig) -> Published:
    """Everything that is known of the run.

    Raises:
        InputError: it is not a complete run, a file of it is not as it was written, or the
            evaluation is of another autoencoder.
    """
    if is_shipped(config.run):
        raise InputError(
            f"run is {config.run}, which comes with sparsteer and is published with it; give the "
            "folder of a run of your own",
            field="run",
        )
    run = RunFolder(config.run)
    if not run.is_complete():
        raise InputError(
            f"run is {config.run}, which holds no trained autoencoder; give the folder of a run "
            "that is complete",
            field="run",
        )
    if not (run.path / SETTINGS).exists():
        raise InputError(
            f"run is {config.run}, which was not trained here, so that there is nothing to write a "
            "card from; push the autoencoder alone with SparseAutoencoder.push_to_hub in Python",
            field="run",
        )
    sae = SparseAutoencoder.load(run.sae)
    settings = {name: v for name, v in run.settings().items() if name not in _OF_THIS_MACHINE}
    return Published(
        config=config,
        sae=sae,
        settings=without_paths(settings),
        environment=run.environment(),
        summary=run.summary(),
        points=run.curve(),
        evaluation=_evaluation(config, sae),
    )


def without_paths(value: Any) -> Any:
    """Plain values in which absolute paths are reduced to the names of what they lead to."""
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType] - of JSON
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType] - of JSON
    return public_name(value) if isinstance(value, str) and os.path.isabs(value) else value


def _evaluation(config: PublishConfig, sae: SparseAutoencoder) -> Mapping[str, Any] | None:
    """What was measured, if it was, and of these very weights."""
    path = Path(config.evaluation or Path(config.run) / EVALUATION)
    if config.evaluation is None and not path.exists():
        return None
    remedy = f"write it with sparsteer eval {config.run} --cache CACHE --json"
    found = read_json(path, "evaluation", remedy=remedy)
    if missing := [name for name in _MEASURED if name not in found]:
        raise InputError(f"the evaluation {path} lacks {missing[0]!r}; {remedy}")
    if found["fingerprint"] != sae_fingerprint(sae):
        raise InputError(
            f"the evaluation {path} is of another autoencoder than {config.run} holds; {remedy}"
        )
    return found
