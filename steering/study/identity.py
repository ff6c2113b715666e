"""What a study's folder holds the results of, so that no other study goes on in it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...sae.common.checksums import read_checked_json, write_checked_json
from ...sae.common.errors import InputError
from ...sae.common.locks import is_leftover
from ...sae.fingerprint import sae_fingerprint
from ..features.picks import Picks
from .config import StudyConfig
from .context import StudyContext
from .texts import StudyTexts

FILE = "study.json"

_SETTINGS = (
    *("features", "group", "lineas_steps", "prefix", "continuations", "max_new_tokens"),
    *("temperature", "top_p", "seed", "batch_size", "neutral_tokens", "tolerance"),
    "most_evaluations",
)
"""What fits, strengths and continuations depend on. Methods, costs, draws and scorers may be added
to a study."""


def require_free_or_study(folder: Path) -> None:
    """Raise an InputError if a folder holds anything but a study, or studies in folders of it; a
    study begins with its settings."""
    if not folder.is_dir():
        return
    content = [item for item in folder.iterdir() if not is_leftover(item)]
    begun = any(os.path.isfile(place / FILE) for place in (folder, *content))
    if content and not begun:
        raise InputError(
            f"{folder} exists and holds no study; give another --out or an empty folder",
            field="out",
        )


def require_same_study(study: StudyContext) -> None:
    """Write what the study is of, or compare it with what is written.

    Raises:
        InputError: the folder holds a study with other settings, texts or weights.
    """
    path = study.folder / FILE
    own = _identity(study)
    if not path.exists():
        write_checked_json(path, own)
        return
    known = read_checked_json(path, "settings of the study")
    for name, value in own.items():
        if known.get(name) != value:
            shown = f"{name} is {_shown(value)}, but {study.folder} holds a study where it is "
            raise InputError(
                f"{shown}{_shown(known.get(name))}; give another --out, or the same settings",
                field=name,
            )


def _identity(study: StudyContext) -> dict[str, Any]:
    config, sae = study.config, study.sae
    return {
        **{name: getattr(config, name) for name in _SETTINGS},
        "sparsteer": version("sparsteer"),
        "model": study.model.weights_hash,
        "model_dtype": study.model.dtype_name,
        "site": study.site.name,
        "autoencoder": None if sae is None else sae_fingerprint(sae),
        "picks": _picks(config, sae),
        **_texts(study.texts),
    }


def _picks(config: StudyConfig, sae: Any) -> list[Mapping[str, Any]] | None:
    """Which features steer, and how far; None where they are found."""
    if config.picks is None or sae is None:
        return None
    picks = Picks.load(config.picks, sae=sae_fingerprint(sae)).picks
    return [{"feature": one.feature, "strength": one.strength} for one in picks if one.steers]


def _texts(texts: StudyTexts) -> dict[str, str]:
    """A digest of each kind of texts that results are kept of; measures know their neutral ones."""
    return {
        f"{each.name}_sha256": hashlib.sha256(
            json.dumps(getattr(texts, each.name)).encode()
        ).hexdigest()
        for each in fields(texts)
        if each.name != "neutral"
    }


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
