"""An activation cache of random rows, for whatever reads one and asks no language model."""

from pathlib import Path

import torch

from sparsteer.training.data.cache.manifest import (
    EXCLUDED,
    CacheManifest,
    CorpusEntry,
    ShardEntry,
    write_manifest,
)
from sparsteer.training.data.cache.shards import ShardContent, encode_rows, write_shard
from sparsteer.training.data.corpus_config import CacheDtype

PER_CONTEXT, LENGTH = 126, 128
SITE = "blocks.0.hook_resid_post"


def write_random_cache(folder: Path, n_rows: int, width: int, dtype: CacheDtype) -> None:
    """A cache of random rows in shards of about 32,768, one context in twenty held out."""
    entries: list[ShardEntry] = []
    n_contexts = 32_768 // LENGTH
    while sum(entry.rows for entry in entries) < n_rows:
        context = torch.arange(n_contexts * PER_CONTEXT) // PER_CONTEXT
        zeros = torch.zeros_like(context)
        content = ShardContent(
            activations={SITE: encode_rows(torch.randn(len(context), width), dtype, SITE)},
            tokens=zeros,
            doc=zeros,
            position=zeros,
            context=context,
            offset=torch.arange(len(context)) % PER_CONTEXT + 2,
            contexts=torch.zeros(n_contexts, LENGTH, dtype=torch.int64),
            lengths=torch.full((n_contexts,), LENGTH),
            held_out=torch.rand(n_contexts) < 0.05,
        )
        entries.append(write_shard(folder, len(entries), content, dict.fromkeys(EXCLUDED, 0)))
    manifest = CacheManifest(
        complete=True,
        model="random",
        weights_hash="",
        tokenizer_hash="",
        sites=(SITE,),
        d_model=width,
        dtype=dtype,
        context_length=LENGTH,
        contexts_per_shard=n_contexts,
        threads=1,
        corpus=CorpusEntry(dataset="random", fingerprint="", revision=None, parts=("random",)),
        config={},
        shards=tuple(entries),
    )
    write_manifest(folder, manifest)
