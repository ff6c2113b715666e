"""A small activation cache of planted directions, written without a language model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sparsteer.training.manifest import CacheManifest, CorpusEntry, ShardEntry, write_manifest
from sparsteer.training.shards import ShardContent, to_stored, write_shard

SITE = "blocks.1.hook_resid_post"
CONTEXT = 16


@pytest.fixture(scope="session")
def write_cache() -> Callable[..., Path]:
    """A function that writes a cache of float32 rows of width 12: three shards, every tenth context
    held out."""

    def write(folder: Path, *, contexts: int = 240, seed: int = 0, bad_row: bool = False) -> Path:
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(30, 12, generator=generator)
        per_shard = contexts // 3
        entries: list[ShardEntry] = []
        folder.mkdir(parents=True, exist_ok=True)
        for shard in range(3):
            n_rows = per_shard * (CONTEXT - 2)
            chosen = torch.rand(n_rows, 30, generator=generator) < 0.1
            rows = chosen.float() @ directions + 0.05 * torch.randn(n_rows, 12, generator=generator)
            context = torch.arange(n_rows) // (CONTEXT - 2)
            stored = to_stored(rows, "float32", SITE)
            if bad_row and shard == 1:
                stored.values[:, 3] = torch.nan
            offset = 2 + torch.arange(n_rows) % (CONTEXT - 2)
            tokens = torch.randint(3, 250, (per_shard, CONTEXT), generator=generator)
            content = ShardContent(
                activations={SITE: stored},
                tokens=tokens[context, offset],
                doc=context + shard * per_shard,
                position=offset - 1,
                context=context,
                offset=offset,
                contexts=tokens,
                lengths=torch.full((per_shard,), CONTEXT),
                held_out=torch.arange(per_shard) % 10 == 0,
            )
            left_out = {"bos": per_shard, "separator": 0, "first_token": per_shard}
            left_out |= {"padding": 0, "surplus": 0}
            entries.append(write_shard(folder, shard, content, left_out))
        manifest = CacheManifest(
            complete=True,
            model="tiny",
            weights_hash="ab" * 32,
            tokenizer_hash="cd" * 32,
            sites=(SITE,),
            d_model=12,
            dtype="float32",
            context_length=CONTEXT,
            contexts_per_shard=per_shard,
            threads=1,
            corpus=CorpusEntry(
                dataset="planted", fingerprint="ef" * 32, revision=None, parts=("planted",)
            ),
            config={},
            shards=tuple(entries),
        )
        write_manifest(folder, manifest)
        return folder

    return write


@pytest.fixture(scope="session")
def planted_cache(
    tmp_path_factory: pytest.TempPathFactory, write_cache: Callable[..., Path]
) -> Path:
    """Such a cache, shared by all tests; none may change it."""
    return write_cache(tmp_path_factory.mktemp("caches") / "planted")
