"""A feature index in one small file, and back into the folder that readers map into memory.

The file is a ZIP archive with an xz stream for each file of the index. Of an array the bytes of all
elements' first byte come first, then those of the second and so on, which compresses better than
elements one after another: high bytes of token ids are nearly all alike. Activations and other
values that people only look at are cut to 12 significant bits (at most 1/2048 too small), never
their largest, which statistics.parquet has whole; everything else is as it was.
"""

import io
import lzma
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ...sae.common.checksums import (
    record_of,
    recorded_files,
    require_as_written,
    write_checked_json,
)
from ...sae.common.errors import InputError
from ...sae.common.files import atomic_file, atomic_folder
from .arrays import save_array
from .layout import MANIFEST
from .manifest import read_manifest

_CUT = ("_activations", "_scores", "_values", "_together", "_jaccard")
"""What the names of arrays end with whose values are cut."""
_KEPT_BITS = 12
_DROPPED = 24 - _KEPT_BITS
"""Of the 24 significant bits of float32."""
_ENDING = ".xz"
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The time of every member, so that equal content gives equal bytes."""
_PRESET = 9
_AGAIN = "build the index again"
_COPY = "install sparsteer again, or copy the file again"


def pack_index(
    index: Path,
    out: Path,
    *,
    sources: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, int]:
    """Write a feature index as one file; equal indexes give equal bytes.

    Args:
        index: the folder of the index, each file of which is compared with its checksum.
        out: the file, replaced if it is there.
        sources: names of the parts of the corpus that was cached, in their order: document d is of
            part d % len(sources). The packed index then says of each example where it is from.
        progress: told bytes read and bytes in all.

    Returns:
        Bytes in the packed file of each file of the index, by name.

    Raises:
        InputError: the index is missing, or not as it was written.
    """
    manifest = read_manifest(index, _AGAIN)
    names = sorted(path.name for path in index.iterdir() if path.suffix in (".npy", ".parquet"))
    sizes = [(index / name).stat().st_size for name in names]
    packed: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary, atomic_file(out) as file:
        folder = Path(temporary)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for place, name in enumerate(names):
                require_as_written(index / name, record_of(manifest, name), _AGAIN)
                packed[name] = _add(archive, name, _packed(index / name, folder / name))
                progress(sum(sizes[: place + 1]), sum(sizes))
            manifest |= {"sources": list(sources), "activation_bits": _KEPT_BITS}
            write_checked_json(
                folder / MANIFEST, {**manifest, "files": recorded_files(folder, names)}
            )
            packed[MANIFEST] = _add(archive, MANIFEST, (folder / MANIFEST).read_bytes())
    return packed


def unpack_index(file: Path, out: Path) -> None:
    """Write the folder of a packed feature index, which appears whole; readers compare each file
    with its checksum.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with zipfile.ZipFile(file) as archive, atomic_folder(out) as folder:
            for member in archive.namelist():
                name = Path(member).name.removesuffix(_ENDING)
                content = lzma.decompress(archive.read(member))
                if name.endswith(".npy"):
                    save_array(folder / name, _array_of(content))
                else:
                    (folder / name).write_bytes(content)
            read_manifest(folder, _COPY)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing; {_COPY}") from None
    except (zipfile.BadZipFile, lzma.LZMAError, ValueError, EOFError) as error:
        raise InputError(f"{file} cannot be read ({error}); {_COPY}") from None


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> int:
    """Compress a member; give its size."""
    member = zipfile.ZipInfo(f"{name}{_ENDING}", _EARLIEST)
    compressed = lzma.compress(content, preset=_PRESET)
    archive.writestr(member, compressed)
    return len(compressed)


def _packed(source: Path, kept: Path) -> bytes:
    """What is compressed of a file; as it will be read again it is written at `kept`."""
    if source.suffix != ".npy":
        content = source.read_bytes()
        kept.write_bytes(content)
        return content
    array = np.load(source, allow_pickle=False)
    if array.dtype == np.float32 and source.stem.endswith(_CUT):
        array = _cut(array)
    save_array(kept, array)
    planes = np.ascontiguousarray(array).view(np.uint8).reshape(-1, array.itemsize).T
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return header.getvalue() + planes.tobytes()


def _cut(values: np.ndarray) -> np.ndarray:
    """Values with the last bits of their significands set to 0, which makes none larger."""
    return (values.view(np.uint32) & np.uint32(2**32 - 2**_DROPPED)).view(np.float32)


def _array_of(content: bytes) -> np.ndarray:
    """The array whose header and planes of bytes these are.

    Raises:
        ValueError: they are not, or it is an array of objects.
    """
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array has another header")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran or dtype.hasobject:
        raise ValueError("an array is of another kind")
    planes = np.frombuffer(content, np.uint8, offset=stream.tell())
    elements = np.ascontiguousarray(planes.reshape(dtype.itemsize, -1).T)
    return elements.view(dtype).reshape(shape)
