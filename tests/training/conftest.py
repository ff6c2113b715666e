"""A small activation cache of planted directions, written without a language model; processes."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.training.data.cache.manifest import (
    CacheManifest,
    CorpusEntry,
    ShardEntry,
    write_manifest,
)
from sparsteer.training.data.cache.shards import ShardContent, encode_rows, write_shard

SITE = "blocks.1.hook_resid_post"
TARGET_SITE = "blocks.1.hook_mlp_out"
CONTEXT = 16


@pytest.fixture(scope="session")
def write_cache() -> Callable[..., Path]:
    """A function that writes a cache of float32 rows of width 12: three shards, every tenth context
    held out; with `target` also a site with other directions for the same features."""

    def write(
        folder: Path,
        *,
        contexts: int = 240,
        seed: int = 0,
        bad_row: bool = False,
        target: bool = False,
    ) -> Path:
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(30, 12, generator=generator)
        others = 5 * torch.randn(30, 12, generator=torch.Generator().manual_seed(seed + 1))
        per_shard = contexts // 3
        entries: list[ShardEntry] = []
        folder.mkdir(parents=True, exist_ok=True)
        for shard in range(3):
            n_rows = per_shard * (CONTEXT - 2)
            chosen = torch.rand(n_rows, 30, generator=generator) < 0.1
            rows = chosen.float() @ directions + 0.05 * torch.randn(n_rows, 12, generator=generator)
            context = torch.arange(n_rows) // (CONTEXT - 2)
            stored = encode_rows(rows, "float32", SITE)
            if bad_row and shard == 1:
                stored.values[:, 3] = torch.nan
            offset = 2 + torch.arange(n_rows) % (CONTEXT - 2)
            tokens = torch.randint(3, 250, (per_shard, CONTEXT), generator=generator)
            activations = {SITE: stored}
            if target:
                activations[TARGET_SITE] = encode_rows(
                    chosen.float() @ others + 3, "float32", TARGET_SITE
                )
            content = ShardContent(
                activations=activations,
                tokens=tokens[context, offset],
                doc=context + shard * per_shard,
                position=offset - 1,
                context=context,
                offset=offset,
                contexts=tokens,
                lengths=torch.full((per_shard,), CONTEXT),
                held_out=torch.arange(per_shard) % 10 == 0,
            )
            excluded = {"bos": per_shard, "separator": 0, "first_token": per_shard}
            excluded |= {"padding": 0, "surplus": 0}
            entries.append(write_shard(folder, shard, content, excluded))
        manifest = CacheManifest(
            complete=True,
            model="tiny",
            weights_hash="ab" * 32,
            tokenizer_hash="cd" * 32,
            sites=(SITE, TARGET_SITE) if target else (SITE,),
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


@pytest.fixture(scope="session")
def paired_cache(
    tmp_path_factory: pytest.TempPathFactory, write_cache: Callable[..., Path]
) -> Path:
    """One of two sites, for transcoders; none may change it."""
    return write_cache(tmp_path_factory.mktemp("caches") / "paired", target=True)


@pytest.fixture(scope="session")
def in_processes() -> Callable[..., list[Any]]:
    """A function that calls another in several processes, as torchrun would have started them, and
    gives their results by rank: what it returned, what it raised, or "exit N"."""

    def run(size: int, function: Callable[..., Any], *args: Any, **options: Any) -> list[Any]:
        fork = multiprocessing.get_context("fork")  # what is imported need not be imported again
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        workers: list[tuple[Any, Connection]] = []
        for rank in range(size):
            received, sent = fork.Pipe(duplex=False)
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            arguments = (sent, names, function, args, options)
            worker = fork.Process(target=_call, args=arguments, daemon=True)
            worker.start()
            sent.close()
            workers.append((worker, received))
        return [_result(worker, received) for worker, received in workers]

    return run


def _call(
    sent: Connection,
    names: dict[str, object],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    os.environ.update({name: str(value) for name, value in names.items()})
    try:
        sent.send(function(*args, **options))
    except BaseException as error:
        sent.send(error)


def _result(worker: Any, received: Connection) -> Any:
    try:
        assert received.poll(300), "a process hangs"
        return received.recv()
    except EOFError:
        worker.join(60)
        return f"exit {worker.exitcode}"
    finally:
        worker.join(60)
        worker.kill()
