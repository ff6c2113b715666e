"""A run in the place of the dictionary that ships with the package."""

import shutil
from pathlib import Path

from sparsteer.sae import SparseAutoencoder
from sparsteer.sae.common.checksums import recorded_files, write_checked_json
from sparsteer.sae.common.shipped import DEFAULT
from sparsteer.sae.fingerprint import sae_fingerprint
from sparsteer.steering.features.packing import pack_index


def write_stand_in(run: Path, dictionaries: Path) -> None:
    """Put a run that has a feature index into a folder of dictionaries, by the default's name."""
    folder = dictionaries / DEFAULT
    shutil.copytree(run / "sae", folder / "sae")
    pack_index(run / "features", folder / "features.zip")
    fingerprint = sae_fingerprint(SparseAutoencoder.load(run))
    files = recorded_files(folder, ["features.zip"])
    record = {"name": DEFAULT, "sae": fingerprint, "files": files}
    write_checked_json(folder / "dictionary.json", record)
