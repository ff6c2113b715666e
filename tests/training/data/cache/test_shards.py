"""Shard files: what goes in comes out, and how exact the stored rows are."""

import errno
import hashlib
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsteer.sae.common.errors import InputError
from sparsteer.training.data.cache.shards import (
    EncodedRows,
    Shard,
    ShardContent,
    encode_rows,
    write_shard,
)
from sparsteer.training.data.corpus_config import CacheDtype

D = 7
SITE = "blocks.1.hook_resid_post"


def rows_with_outliers(n_rows: int) -> Tensor:
    rows = torch.randn(n_rows, D) * torch.rand(n_rows, 1).mul(8).exp()
    rows[n_rows // 2] = 0
    return rows


def content_of(stored: EncodedRows, n_contexts: int = 4, length: int = 5) -> ShardContent:
    n_rows = len(stored.values)
    return ShardContent(
        activations={SITE: stored},
        tokens=torch.randint(9, (n_rows,)),
        doc=torch.randint(2**40, (n_rows,)),
        position=torch.randint(99, (n_rows,)),
        context=torch.randint(n_contexts, (n_rows,)).sort().values,
        offset=torch.randint(length, (n_rows,)),
        contexts=torch.randint(9, (n_contexts, length)),
        lengths=torch.randint(1, length + 1, (n_contexts,)),
        held_out=torch.arange(n_contexts) % 3 == 1,
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_written_and_read(tmp_path: Path, dtype: CacheDtype) -> None:
    stored = encode_rows(rows_with_outliers(13), dtype, SITE)
    content = content_of(stored)
    entry = write_shard(tmp_path, 3, content, {"bos": 1})
    path = tmp_path / "shard-00003.safetensors"
    assert os.listdir(tmp_path) == [path.name] == [entry.file]
    assert entry.bytes == path.stat().st_size
    assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (entry.contexts, entry.held_out_contexts, entry.rows) == (4, 1, 13)
    assert entry.held_out_rows == int((content.context == 1).sum())

    shard = Shard(path)
    for name in ("tokens", "doc", "position", "context", "offset", "contexts", "lengths"):
        assert torch.equal(shard.tensor(name).long(), getattr(content, name))
    assert shard.tensor("doc").dtype == torch.int64
    assert shard.tensor("tokens").dtype == torch.int32
    read = shard.stored(SITE)
    assert torch.equal(read.values, stored.values)
    assert torch.equal(read.restored(), stored.restored())

    train, held_out = shard.row_numbers(held_out=False), shard.row_numbers(held_out=True)
    assert sorted([*train, *held_out]) == list(range(13))
    assert set(held_out) == set(np.flatnonzero(content.context.numpy() == 1))


@pytest.mark.parametrize(("dtype", "bits"), [("float16", 10), ("bfloat16", 7), ("float32", 23)])
def test_floats_are_rounded_to_nearest(dtype: CacheDtype, bits: int) -> None:
    rows = rows_with_outliers(50)
    restored = encode_rows(rows, dtype, SITE).restored()
    assert restored.dtype == torch.float32
    # Below 2**-14 float16 is subnormal, with steps of 2**-24.
    assert ((restored - rows).abs() <= rows.abs() * 2.0 ** -(bits + 1) + 2**-25).all()


def test_int8_is_off_by_half_a_step_of_its_row_at_most() -> None:
    rows = rows_with_outliers(50)
    stored = encode_rows(rows, "int8", SITE)
    assert stored.values.dtype == torch.int8
    largest = rows.abs().amax(dim=1, keepdim=True)
    error = (stored.restored() - rows).abs()
    assert (error <= largest / 127 * 0.5 * (1 + 1e-5)).all()
    assert error.max() > 0
    assert (stored.values.abs().amax(dim=1)[largest.flatten() > 0] == 127).all()


def test_int8_keeps_the_sign_of_the_smallest_numbers() -> None:
    rows = torch.randn(300, 7) * 10.0 ** torch.linspace(-45, -36, 300)[:, None]
    restored = encode_rows(rows, "int8", "site").restored()
    assert (restored * rows.sign() >= 0).all()


def test_bfloat16_overflow_does_not_propose_bfloat16() -> None:
    with pytest.raises(InputError, match="bfloat16 cannot hold; choose --dtype float32"):
        encode_rows(torch.full((1, 2), torch.finfo(torch.float32).max), "bfloat16", "site")


def test_rows_picks_and_copies() -> None:
    for dtype in ("float16", "int8"):
        stored = encode_rows(rows_with_outliers(20), dtype, SITE)
        index = torch.randint(20, (31,))
        picked = stored.rows(index.numpy())
        assert torch.equal(picked.restored(), stored.restored()[index])
        picked.values.zero_()
        assert not torch.equal(stored.values[index], picked.values)


def test_float16_overflow_names_the_site_the_value_and_the_remedy() -> None:
    rows = torch.randn(5, D)
    rows[3, 2] = -71234.0
    with pytest.raises(InputError, match=rf"{SITE} reach 71,234, .*--dtype bfloat16"):
        encode_rows(rows, "float16", SITE)
    assert encode_rows(rows, "bfloat16", SITE).values.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite(bad: float) -> None:
    rows = torch.randn(5, D)
    rows[1, 1] = bad
    for dtype in ("float32", "int8"):
        with pytest.raises(InputError, match=rf"NaN or infinite activations at {SITE}"):
            encode_rows(rows, dtype, SITE)


def test_a_disk_without_room_leaves_no_file(tmp_path: Path) -> None:
    """The limit on a file's size stands in for the end of the disk."""
    content = content_of(encode_rows(torch.randn(2000, D), "float32", SITE))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError) as error:
            write_shard(tmp_path, 0, content, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []
