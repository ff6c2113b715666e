"""Figures by class of position and by norm, against their definitions at every position."""

import json
import math
import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.training.data.cache.config import CacheConfig
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.data.cache.writer import cache_activations
from sparsteer.training.evaluation.by_class import (
    CLASSES,
    NORM_QUANTILES,
    figures_by_class,
    is_delimiter,
    positions_of,
)
from sparsteer.training.evaluation.config import EvalSettings
from sparsteer.training.evaluation.subjects import subject_of
from sparsteer.training.initialize import initialize_from_rows

SITE = "blocks.1.hook_resid_post"
LETTERS, MARKS = "abcdefgh", " ,.\n"


@pytest.fixture(scope="module")
def cache(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> ActivationCache:
    folder = tmp_path_factory.mktemp("by_class")
    source = random.Random(3)
    texts = ["".join(source.choices(LETTERS + MARKS, k=source.randint(5, 50))) for _ in range(40)]
    corpus = folder / "text.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = CacheConfig(
        model=tiny_model.name,
        dataset=str(corpus),
        out=str(folder / "cache"),
        site=(SITE,),
        tokens=100_000,
        context_length=24,
        batch_size=4,
        shard_rows=200,
        held_out_fraction=0.5,
        dtype="float32",
        model_dtype="float32",
    )
    cache_activations(config, model=tiny_model)
    return ActivationCache(config.out)


@pytest.fixture(scope="module")
def sae(cache: ActivationCache) -> SparseAutoencoder:
    made = SparseAutoencoder(TopKConfig(32, 64, 3), seed=1)
    initialize_from_rows(made, cache.sample(200))
    return made


def settings(cache: ActivationCache, **changes: Any) -> EvalSettings:
    usual: dict[str, Any] = {"contexts": 1000, "device": "cpu", "precision": "float32"}
    return EvalSettings(cache=str(cache.path), **usual | changes)


def by_hand(
    cache: ActivationCache, model: LanguageModel, sae: SparseAutoencoder, n_contexts: int
) -> tuple[list[str], Tensor, Tensor, Tensor, Tensor]:
    """Of every position with text, context by context: class, missed and whole squares, L0 and
    norm."""
    tokens, mask = cache.held_out_contexts(n_contexts)
    tokenizer: Any = model.tokenizer
    kinds: list[str] = []
    rows: list[Tensor] = []
    for tokens_L, mask_L in zip(tokens, mask, strict=True):
        length, first = int(mask_L.sum()), True
        rows.append(model.site(SITE).read(tokens_L[None, :length])[0])
        for token in map(int, tokens_L[:length]):
            text = "" if token < 3 else tokenizer.decode([token])
            if not text:
                kinds.append("special")
                continue
            kinds.append("first" if first else "delimiter" if text in MARKS else "content")
            first = False
    x = torch.cat(rows)
    mean = cache.held_out(limit=65_536).double().mean(0)
    with torch.no_grad():
        missed = (x.double() - sae(x).double()).square().sum(-1)
        l0 = (sae.encode(x).values > 0).sum(-1).double()
    return (
        kinds,
        missed,
        (x.double() - mean).square().sum(-1),
        l0,
        x.double().square().sum(-1).sqrt(),
    )


@pytest.mark.parametrize("n_contexts", [1000, 3])
def test_classes_are_as_defined(
    cache: ActivationCache, tiny_model: LanguageModel, sae: SparseAutoencoder, n_contexts: int
) -> None:
    asked = settings(cache, contexts=n_contexts)
    subject = subject_of(sae, "mine", cache, asked)
    (found,) = figures_by_class([subject], cache, asked, tiny_model)
    kinds, missed, whole, l0, norm = by_hand(cache, tiny_model, sae, n_contexts)
    assert set(found["classes"]) == set(CLASSES) == set(kinds)
    for name, figures in found["classes"].items():
        mine = torch.tensor([kind == name for kind in kinds])
        assert figures["rows"] == int(mine.sum())
        assert figures["share"] == pytest.approx(figures["rows"] / len(kinds))
        assert figures["fvu"] == pytest.approx(float(missed[mine].sum() / whole[mine].sum()), 1e-4)
        assert figures["l0"] == pytest.approx(float(l0[mine].mean()))
        assert figures["mean_norm"] == pytest.approx(float(norm[mine].mean()), 1e-4)
        assert figures["fvu_standard_error"] > 0
    trained = torch.tensor([kind in ("delimiter", "content") for kind in kinds])
    groups = found["norm_quantiles"]
    assert sum(group["rows"] for group in groups) == int(trained.sum())
    assert [group["from"] for group in groups] == list(NORM_QUANTILES[:-1])
    ends = [(group["norm_from"], group["norm_to"]) for group in groups]
    assert all(low <= high for low, high in ends)
    assert all(one[1] <= other[0] for one, other in pairwise(ends))
    inside = trained & (norm >= ends[2][0] - 1e-4) & (norm <= ends[2][1] + 1e-4)
    fvu = float(missed[inside].sum() / whole[inside].sum())
    assert groups[2]["fvu"] == pytest.approx(fvu, rel=1e-3)


def test_errors_are_over_contexts(
    cache: ActivationCache, tiny_model: LanguageModel, sae: SparseAutoencoder
) -> None:
    asked = settings(cache)
    subject = subject_of(sae, "mine", cache, asked)
    (found,) = figures_by_class([subject], cache, asked, tiny_model)
    kinds, missed, whole, _, _ = by_hand(cache, tiny_model, sae, 1000)
    _, mask = cache.held_out_contexts(1000)
    context = mask.nonzero()[:, 0]
    mine = torch.tensor([kind == "content" for kind in kinds])
    fvu = float(missed[mine].sum() / whole[mine].sum())
    left = (missed - fvu * whole)[mine]
    sums = torch.zeros(len(mask), dtype=torch.float64).index_add_(0, context[mine], left)
    n = len(mask)
    expected = math.sqrt(n / (n - 1) * float(sums.square().sum())) / float(whole[mine].sum())
    assert found["classes"]["content"]["fvu_standard_error"] == pytest.approx(expected, rel=1e-3)
    single = settings(cache, contexts=1)
    (one,) = figures_by_class([subject], cache, single, tiny_model)
    assert one["contexts"] == 1 and one["classes"]["content"]["fvu_standard_error"] is None


def test_several_are_what_each_is_alone(
    cache: ActivationCache, tiny_model: LanguageModel, sae: SparseAutoencoder
) -> None:
    asked = settings(cache)
    other = SparseAutoencoder(TopKConfig(32, 40, 5), seed=2)
    subjects = [subject_of(one, "mine", cache, asked) for one in (sae, other)]
    seen: list[tuple[int, int]] = []
    together = figures_by_class(
        subjects, cache, asked, tiny_model, progress=lambda done, total: seen.append((done, total))
    )
    alone = [figures_by_class([one], cache, asked, tiny_model)[0] for one in subjects]
    assert together == alone and together[0] != together[1]
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("text", "delimits"),
    [
        *[(text, True) for text in (".", "\n\n", " ", ' ."', "—")],
        *[(text, False) for text in (" a", "", "1", "$", "\ufffd", "n't")],
    ],
)
def test_what_delimits(text: str, delimits: bool) -> None:
    assert is_delimiter(text) == delimits


def test_padding_is_of_no_class(tiny_model: LanguageModel) -> None:
    tokens = torch.tensor([[1, 70, 71, 2, 0, 0], [1, 2, 70, 71, 72, 73]])
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    found = positions_of(tokens, mask, tiny_model)
    names = [CLASSES[int(kind)] for kind in found.kind]
    assert names[:4] == ["special", "first", "content", "special"]
    assert names[4:] == ["special", "special", "first", "content", "content", "content"]
    assert [int(context) for context in found.context] == [0] * 4 + [1] * 6


def test_without_contexts_it_is_refused(
    cache: ActivationCache, tiny_model: LanguageModel, sae: SparseAutoencoder
) -> None:
    asked = settings(cache, contexts=0)
    with pytest.raises(InputError, match="contexts is 0"):
        figures_by_class([subject_of(sae, "mine", cache, asked)], cache, asked, tiny_model)
