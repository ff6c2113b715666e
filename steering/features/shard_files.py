"""What the pass keeps of each shard on disk rather than in memory, until the index is whole."""

from pathlib import Path

import numpy as np

from ...sae.common.files import atomic_folder, remove_folder
from .arrays import save_array


class ShardFiles:
    """Arrays of shards in a folder; those of a shard appear together, in its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, shard: int, arrays: dict[str, np.ndarray]) -> None:
        """Keep the arrays of a shard by name; they replace those that there were."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_folder(self._of(shard)) as temporary:
            for name, array in arrays.items():
                save_array(temporary / f"{name}.npy", array)

    def read(self, shard: int, name: str) -> np.ndarray:
        """An array of a shard, mapped from its file."""
        return np.load(self._of(shard) / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    def count(self) -> int:
        """Shards from the first on that there are."""
        count = 0
        while self._of(count).exists():
            count += 1
        return count

    def clear(self) -> None:
        """Remove all of it."""
        if self.folder.exists():
            remove_folder(self.folder)

    def _of(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}"
