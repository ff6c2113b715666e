"""Flip one bit at random places of files, and see whether what reads them notices.

A flip is harmless if every command then ends with the result that it has without it, and found if
one of those that end otherwise says `error: ...` and has another status than 0. Neither may be.
"""

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

Result = tuple[int, object, str]
"""Status, result and what was said on standard error."""


def unnoticed_flips(
    folder: Path,
    read: Callable[[], Result],
    *,
    places: int,
    seed: int = 0,
    names: Sequence[str] = ("**/*",),
) -> tuple[int, int, list[str]]:
    """Flip a bit at so many places of each file of the folder, one at a time, and read after each.

    Args:
        folder: changed, and as it was after each flip, whatever the readers write there.
        read: runs commands that read the folder; without a flip it ends with status 0.
        places: flips of each file.
        names: patterns of the files to change.

    Returns:
        Flips in all, flips that were found, and a line for each that changed the result and was
        not found.
    """
    source = random.Random(seed)
    whole = shutil.copytree(folder, folder.with_name(f"{folder.name}-whole"))
    status, wanted, said = read()
    assert status == 0, said
    _restore(folder, whole)
    files = [path.relative_to(whole) for name in names for path in sorted(whole.glob(name))]
    total, found, unnoticed = 0, 0, list[str]()
    for file in files:
        content = (whole / file).read_bytes() if (whole / file).is_file() else b""
        if not content or file.name.startswith(".lock"):
            continue
        for _ in range(places):
            place, bit = source.randrange(len(content)), source.randrange(8)
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            (folder / file).write_bytes(changed)
            status, result, said = read()
            total += 1
            if status and said.splitlines()[-1].startswith("error: "):
                found += 1
            elif (status, result) != (0, wanted):
                unnoticed.append(f"{file}, byte {place}, bit {bit}: status {status}, {said[-300:]}")
            _restore(folder, whole)
    return total, found, unnoticed


def _restore(folder: Path, whole: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
