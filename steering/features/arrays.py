"""Arrays to .npy files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file; of a full disk the error says so."""
    with path.open("wb") as file:
        # Given the file itself, numpy would write past Python and say only how much it wrote.
        np.save(cast(Any, SimpleNamespace(write=file.write)), array, allow_pickle=False)
