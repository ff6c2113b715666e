"""Many at once: 200 that read pages and 20 that generate, each with its own steering.

    python benchmarks/load_serve.py RUN [--seconds 120] [--readers 200] [--writers 20] [--json]

Every answer must be right but the documented 429 of a full queue, and the memory of the server
after the first quarter and at the end may differ by as much as `MOST_GROWTH`.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from served_run import Served, serving
from serving_pages import client_of, wait_for_model

from sparsteer.steering.features.index import FeatureIndex

MOST_GROWTH = 50e6
"""Bytes by which the server may have grown: the allocator's play, no leak of what is answered."""

_PAGES = ("/", "/features/{}", "/features/{}", "/features/{}", "/search", "/triage", "/playground")


@dataclass
class Load:
    """What came of it."""

    statuses: Counter[str] = field(default_factory=Counter[str])
    """How often each kind of request had each outcome: `page 200`, `text 429`, ..."""
    tokens: int = 0
    slowest_page: float = 0.0
    memory: list[int] = field(default_factory=list[int])
    """Of the server, in bytes: after a quarter of the time, and at the end."""

    @property
    def growth(self) -> int:
        """Bytes by which the server grew meanwhile."""
        return self.memory[-1] - self.memory[0]

    @property
    def faults(self) -> list[str]:
        """What should not have been; empty if all is well."""
        wrong = [
            f"{name}: {count}"
            for name, count in self.statuses.items()
            if name not in ("page 200", "text 200", "text 429")
        ]
        if not self.statuses["page 200"] or not self.statuses["text 200"]:
            wrong.append("nothing was answered")
        if self.growth > MOST_GROWTH:
            wrong.append(f"the server grew by {self.growth / 1e6:.0f} MB")
        return wrong


def load(
    served: Served, firing: Sequence[int], *, seconds: float, readers: int, writers: int
) -> Load:
    """Ask the server, whose model is read, for so long about the features that fire."""
    return asyncio.run(_load(served, firing, seconds=seconds, readers=readers, writers=writers))


async def _load(
    served: Served, firing: Sequence[int], *, seconds: float, readers: int, writers: int
) -> Load:
    done, end = Load(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=readers + writers)
    async with httpx.AsyncClient(
        base_url=served.url, headers=served.headers, timeout=300, limits=limits
    ) as client:

        async def repeat(number: int, once: Callable[..., Awaitable[None]]) -> None:
            source = random.Random(number)
            while time.monotonic() < end:
                await once(client, done, source, source.choice(firing))

        async def watch() -> None:
            await asyncio.sleep(seconds / 4)
            done.memory.append(served.memory)

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            for number in range(readers):
                group.create_task(repeat(number, _read))
            for number in range(writers):
                group.create_task(repeat(readers + number, _write))
    done.memory.append(served.memory)
    return done


async def _read(client: httpx.AsyncClient, done: Load, source: random.Random, feature: int) -> None:
    path = source.choice(_PAGES).format(feature)
    began = time.monotonic()
    try:
        answer = await client.get(path)
    except httpx.HTTPError as error:
        done.statuses[f"page {type(error).__name__}"] += 1
        return
    done.slowest_page = max(done.slowest_page, time.monotonic() - began)
    done.statuses[f"page {answer.status_code}"] += 1


async def _write(
    client: httpx.AsyncClient, done: Load, source: random.Random, feature: int
) -> None:
    features = [{"index": feature, "strength": source.uniform(0.5, 2.0)}]
    body: dict[str, Any] = {
        "prompt": f"My day number {source.randrange(1000)} at work was",
        "max_tokens": source.randint(5, 30),
        "temperature": 1.0,
        "seed": source.randrange(1000),
        "stream": True,
        "steering": {"features": features, "tier": "constant"},
    }
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = [line async for line in answer.aiter_lines() if line.startswith("data: ")]
            code = answer.status_code
    except httpx.HTTPError as error:
        done.statuses[f"text {type(error).__name__}"] += 1
        return
    if code == 200 and lines[-1:] != ["data: [DONE]"]:
        done.statuses["text cut off"] += 1
        return
    done.statuses[f"text {code}"] += 1
    done.tokens += max(0, len(lines) - 2)
    if code == 429:
        await asyncio.sleep(1)


def main() -> None:
    """Load the server of a run, and end with status 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--writers", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    words = parser.parse_args()
    with serving(words.run) as served:
        with client_of(served) as client:
            wait_for_model(client)
        numbers = FeatureIndex.of_run(words.run).statistics["fired"].nonzero()[0]
        sizes = {name: getattr(words, name) for name in ("seconds", "readers", "writers")}
        done = load(served, numbers.tolist(), **sizes)
    values = {**vars(done), "growth": done.growth, "faults": done.faults}
    if words.json:
        print(json.dumps(values))
    else:
        for name, count in sorted(done.statuses.items()):
            print(f"{name:24} {count:8,}")
        print(f"{'tokens':24} {done.tokens:8,}")
        print(f"{'slowest page':24} {done.slowest_page:8.1f} s")
        print(f"{'memory':24} {done.memory[-1] / 1e6:8.0f} MB, {done.growth / 1e6:+.0f} MB")
    for fault in done.faults:
        print(f"fault: {fault}", file=sys.stderr)
    sys.exit(bool(done.faults))


if __name__ == "__main__":
    main()
