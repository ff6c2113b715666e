"""The state of an unfinished pass on disk, from which the same command goes on.

It is taken between shards, so that what comes of it is bit for bit what an uninterrupted pass
gives.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...sae.common.checksums import (
    read_checked_json,
    record_of,
    recorded_files,
    require_as_written,
    write_checked_json,
)
from ...sae.common.errors import InputError
from ...sae.common.files import atomic_folder
from ...sae.common.wording import counted
from .arrays import save_array

SECONDS, TIMES = 60.0, 20
"""Between two states are so many seconds, and so many times as many as the last one took."""

_FILE = "progress.json"
_REMEDY = "the pass begins anew"


class Progress:
    """Reads and writes the state of a pass."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """In a folder of its own; the identity, plain values, is all that decides the result."""
        self._folder = folder
        self._identity = dict(identity)
        self._due = time.monotonic() + SECONDS

    @property
    def exists(self) -> bool:
        """Whether there is a state, of whatever settings."""
        return (self._folder / _FILE).exists()

    def load(self, say: Callable[[str], None]) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
        """Shards done, numbers and tensors of the last state; 0 and nothing if there is none of the
        same pass, which is said."""
        if not self.exists:
            return 0, {}, {}
        try:
            content = read_checked_json(self._folder / _FILE, "state of the pass", remedy=_REMEDY)
            before: Any = content.get("identity")
            changed = [name for name in self._identity if before.get(name) != self._identity[name]]
            if changed or before.keys() != self._identity.keys():
                say(
                    "an unfinished build was of other settings or another cache "
                    f"({', '.join(changed)}); the pass begins anew"
                )
                return 0, {}, {}
            tensors = {path.stem: self._tensor(path, content) for path in self._arrays(content)}
        except InputError as error:
            say(str(error))
            return 0, {}, {}
        done: int = content["shards"]
        say(f"going on behind {counted(done, 'shard')}, where an earlier build stopped")
        return done, content["numbers"], tensors

    def _arrays(self, content: dict[str, Any]) -> list[Path]:
        return [self._folder / name for name in content["files"]]

    def _tensor(self, path: Path, content: dict[str, Any]) -> Tensor:
        require_as_written(path, record_of(content, path.name), _REMEDY)
        return torch.as_tensor(np.load(path, mmap_mode="c", allow_pickle=False))

    def save_if_due(
        self, shards: int, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        """Write the state if the last one is old enough."""
        started = time.monotonic()
        if started < self._due:
            return
        with atomic_folder(self._folder) as temporary:
            for name, tensor in tensors.items():
                save_array(temporary / f"{name}.npy", tensor.cpu().numpy())
            files = recorded_files(temporary, (path.name for path in temporary.iterdir()))
            content = {"identity": self._identity, "shards": shards, "numbers": dict(numbers)}
            write_checked_json(temporary / _FILE, {**content, "files": files})
        ended = time.monotonic()
        self._due = ended + max(SECONDS, TIMES * (ended - started))
