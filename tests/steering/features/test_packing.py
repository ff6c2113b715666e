"""A packed feature index: the same index again but for the last bits of what is only looked at."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sparsteer.sae import InputError
from sparsteer.steering.features import FeatureIndex
from sparsteer.steering.features.manifest import source_of
from sparsteer.steering.features.packing import pack_index, unpack_index

from .conftest import Setup

CUT = ("_activations", "_scores", "_values", "_together", "_jaccard")


@pytest.fixture(scope="module")
def packed(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("packed") / "features.zip"
    pack_index(setup.run / "features", file, sources=["one", "two"])
    return file


def test_every_file_comes_back(setup: Setup, packed: Path, tmp_path: Path) -> None:
    unpack_index(packed, tmp_path / "again")
    before, after = setup.run / "features", tmp_path / "again"
    assert {file.name for file in after.iterdir()} == {file.name for file in before.iterdir()}
    some = False
    for file in before.glob("*.npy"):
        was, found = np.load(file), np.load(after / file.name)
        assert (found.dtype, found.shape) == (was.dtype, was.shape)
        if file.stem.endswith(CUT):
            assert (np.abs(found) <= np.abs(was)).all()
            np.testing.assert_allclose(found, was, rtol=2**-11)
            some = some or not np.array_equal(found, was)
        else:
            assert np.array_equal(found, was), file.name
    assert some
    for file in before.glob("*.parquet"):
        assert (after / file.name).read_bytes() == file.read_bytes()


def test_readers_take_what_came_back(setup: Setup, packed: Path, tmp_path: Path) -> None:
    unpack_index(packed, tmp_path / "run" / "features")
    shutil.copytree(setup.run / "sae", tmp_path / "run" / "sae")
    was, found = FeatureIndex.of_run(setup.run), FeatureIndex.of_run(tmp_path / "run")
    found.require_files()
    assert found.manifest["activation_bits"] == 12
    number = int(was.statistics["fired"].argmax())
    one, other = was.feature(number), found.feature(number)
    assert other.max_activation == one.max_activation
    assert [e.tokens for e in other.top] == [e.tokens for e in one.top]
    assert other.top[0].activation <= one.max_activation
    assert source_of(found.manifest, 7) == ("two", 3)
    assert source_of(was.manifest, 7) is None


def test_equal_indexes_give_equal_bytes_and_fewer(setup: Setup, packed: Path) -> None:
    again = packed.with_name("again.zip")
    sizes = pack_index(setup.run / "features", again, sources=["one", "two"])
    assert again.read_bytes() == packed.read_bytes()
    whole = sum(file.stat().st_size for file in (setup.run / "features").iterdir())
    assert sum(sizes.values()) < again.stat().st_size < whole / 3


def test_damage_is_told(setup: Setup, packed: Path, tmp_path: Path) -> None:
    content, packed = packed.read_bytes(), tmp_path / "features.zip"
    for wrong in (content[: len(content) // 2], content[:3000] + b"x" + content[3001:], b""):
        packed.write_bytes(wrong)
        with pytest.raises(InputError, match=r"\.zip cannot be read .*; install sparsteer"):
            unpack_index(packed, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    packed.unlink()
    with pytest.raises(InputError, match=r"features\.zip is missing"):
        unpack_index(packed, tmp_path / "out")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("top_rows.npy.xz", b"not a stream")
    with pytest.raises(InputError, match="cannot be read"):
        unpack_index(packed, tmp_path / "out")


def test_an_index_that_changed_is_not_packed(setup: Setup, tmp_path: Path) -> None:
    shutil.copytree(setup.run / "features", tmp_path / "features")
    array = np.load(tmp_path / "features" / "top_rows.npy")
    np.save(tmp_path / "features" / "top_rows.npy", array + 1)
    with pytest.raises(InputError, match=r"top_rows.npy has changed since it was written"):
        pack_index(tmp_path / "features", tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()
