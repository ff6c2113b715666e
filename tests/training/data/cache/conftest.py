"""The cache that the tests of its writer write, from a `dataset` of their own."""

from pathlib import Path

import pytest

from sparsteer.training import CacheConfig


@pytest.fixture
def config(tiny_model_folder: Path, dataset: str, tmp_path: Path) -> CacheConfig:
    """About five shards of eight contexts."""
    return CacheConfig(
        model=str(tiny_model_folder),
        dataset=dataset,
        out=str(tmp_path / "out"),
        tokens=1001,
        context_length=32,
        batch_size=4,
        shard_rows=2 * 4 * 32,
        dtype="float32",
        model_dtype="float32",
        held_out_fraction=0.3,
    )
