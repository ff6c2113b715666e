"""Reading activations pass by pass: the rows that a plain reading gives, the next pass queued."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.sae.language_model.sites import read_sites
from sparsteer.training.data import extraction
from sparsteer.training.data.cache.shards import encode_rows
from sparsteer.training.data.content_tokens import ChosenContext
from sparsteer.training.data.corpus_config import CacheDtype
from sparsteer.training.data.extraction import ContextReader
from sparsteer.training.data.packing import Context

LENGTH, SITES = 9, ("blocks.0.hook_mlp_out", "blocks.1.hook_resid_post")


def chosen(rng: np.random.Generator, n: int) -> list[ChosenContext]:
    found: list[ChosenContext] = []
    for number in range(n):
        tokens = rng.integers(3, 200, LENGTH)
        context = Context(tokens, np.full(LENGTH, number), np.arange(LENGTH), bool(number % 2))
        content = np.arange(LENGTH) > 1
        found.append(ChosenContext(context, content, content & (rng.random(LENGTH) < 0.7)))
    # A pass in which no position has a row.
    found[2] = found[2]._replace(rows=np.zeros(LENGTH, dtype=bool))
    found[3] = found[3]._replace(rows=np.zeros(LENGTH, dtype=bool))
    return found


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_rows_are_those_of_a_plain_reading(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, dtype: CacheDtype
) -> None:
    sites = [tiny_model.site(name) for name in SITES]
    reader = ContextReader(tiny_model, sites, context_length=LENGTH, batch_size=2, dtype=dtype)
    contexts = chosen(np.random.default_rng(0), 7)
    done: list[str] = []
    read = extraction.read_sites

    def noted(*given: Any) -> dict[str, Tensor]:
        done.append("queued")
        return read(*given)

    monkeypatch.setattr(extraction, "read_sites", noted)
    content, _ = reader.read(contexts, lambda rows: done.append(f"took {rows}"))
    monkeypatch.undo()

    expected: dict[str, list[Tensor]] = {name: [] for name in SITES}
    sizes: list[int] = []
    for start in range(0, 7, 2):
        some = contexts[start : start + 2]
        tokens = torch.stack([torch.tensor(one.context.tokens) for one in some])
        rows = torch.stack([torch.tensor(one.rows) for one in some])
        sizes.append(int(rows.sum()))
        for name, acts in read_sites(reader.model, reader.sites, tokens).items():
            expected[name].append(acts[rows].float())
    for name, parts in expected.items():
        stored = encode_rows(torch.cat(parts), dtype, name)
        found = content.activations[name]
        assert torch.equal(found.values, stored.values)
        if stored.scale is not None:
            assert found.scale is not None and torch.equal(found.scale, stored.scale)
    took = [f"took {n}" for n in sizes]
    order = ["queued", "queued", took[0], "queued", took[1], "queued", took[2], took[3]]
    assert done == order and sizes[1] == 0
