"""Model-pair directions: how a second model's activations differ from a first one's."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...kernels.numerics import at_least_float32, row_norms
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.compatibility import require_fits
from ...sae.language_model.model import LanguageModel
from .affine_maps import aurocs
from .fitted import FitReport, Fitted, fitted_edit
from .neutral import with_neutral
from .trained_capture import TextBatch, in_order, site_activations, text_batches
from .trained_config import ModelPairConfig


@dataclass(frozen=True, eq=False)
class _Text:
    """A text and its answer as the models read it."""

    ids: list[int]
    n_text: int
    """Tokens of the text alone; those of the answer stand behind."""


def fit_model_pair(
    first: LanguageModel,
    second: LanguageModel,
    texts: Sequence[str],
    config: ModelPairConfig,
    *,
    answers: Sequence[str] | None = None,
    neutral: Sequence[str] = (),
) -> Fitted:
    """An `add` edit at each site that moves the first model towards the second: the mean over
    tokens of the second's activation minus the first's, of the same tokens.

    The idea is that of REFLEX (arXiv 2511.20233), which contrasts a model with its fine-tuned
    variant on the texts where the two disagree, and trains probes; here the means are taken as they
    are. What the fine-tuning did to style and length is in the direction, too.

    Args:
        first: the model to be steered.
        second: one of the same shape and tokenizer, such as a fine-tuned variant.
        texts: what both read.
        config: which texts and tokens, and where.
        answers: the right continuation of each text; only `keep` of gain or loss, and `tokens` of
            answer, need them. A model gives the answer if its likeliest tokens are the answer's,
            one after the other.
        neutral: texts for the cost that is reported; none are needed.

    Returns:
        The edits. The details of the report have the number of texts by which of the models gives
        the answer (`both`, `neither`, `gain`, `loss`), by site `cosine_of_halves`, between the
        directions of two random halves of the texts, and `norm`.

    Raises:
        InputError: the models differ in shape or tokenizer, answers are needed or missing, or no
            text is left.
    """
    _require_alike(first, second)
    sites = in_order(first, config.sites)
    rows = _read(first, texts, answers, config)
    kept, details = _kept(first, second, rows, answers is not None, config)
    totals: dict[str, list[Tensor]] = {name: [] for name in sites}
    n_tokens = 0
    own: list[Tensor] = []
    other: list[Tensor] = []
    for batch in text_batches(first, [row.ids for row in kept], config.batch_size):
        counted_BL = _counted(batch, [kept[number] for number in batch.texts], config)
        with torch.no_grad():
            before = site_activations(first, sites, batch)
            after = site_activations(second, sites, batch)
        for row, counted_L in enumerate(counted_BL):
            n_tokens += int(counted_L.sum())
            for name in sites:
                difference_LD = after[name][row].double() - before[name][row].double()
                totals[name].append(difference_LD[counted_L])
            if bool(counted_L.any()):
                own.append(before[sites[-1]][row, counted_L].double().mean(0))
                other.append(after[sites[-1]][row, counted_L].double().mean(0))
    if not n_tokens:
        raise InputError("no token of the texts that are kept counts; give longer texts")
    directions = {name: torch.cat(parts).mean(0) for name, parts in totals.items()}
    v_D = directions[sites[-1]]
    if bool(v_D.any()):
        details["auroc_of_models"] = float(
            aurocs((torch.stack(other) @ v_D)[:, None], (torch.stack(own) @ v_D)[:, None])
        )
    details["cosine_of_halves"] = {
        name: _cosine_of_halves(parts, config.seed) for name, parts in totals.items()
    }
    details["norm"] = {name: float(row_norms(direction)) for name, direction in directions.items()}
    dtype = at_least_float32(first.dtype)
    edits = {name: direction.to(dtype) for name, direction in directions.items()}
    report = FitReport(
        method="model_pair",
        n_texts=len(kept),
        n_tokens=n_tokens,
        details=details,
    )
    fitted = Fitted(
        method="model_pair",
        edits=tuple(fitted_edit("add", name, {"v": v_D}) for name, v_D in edits.items()),
        report=report,
    )
    return with_neutral(fitted, first, neutral, batch_size=config.batch_size)


@torch.no_grad()
def changed_latents(
    first: LanguageModel,
    second: LanguageModel,
    sae: SparseAutoencoder,
    site: str,
    texts: Sequence[str],
    *,
    top: int = 20,
    batch_size: int = 16,
    max_length: int = 256,
) -> list[tuple[int, float, float]]:
    """The latents whose mean activation differs most between two models on the same texts.

    Both are encoded by one autoencoder. The means are over content tokens.

    Returns:
        Latent, mean activation in the first and in the second model, the largest absolute change
        first; latents without any are left out.

    Raises:
        InputError: the models differ, or the autoencoder does not fit.
    """
    _require_alike(first, second)
    require_fits(sae, site=first.site(site))
    rows = _read(first, texts, None, ModelPairConfig(sites=(site,), max_length=max_length))
    sums = torch.zeros(2, sae.config.n_latents, dtype=torch.float64)
    n_tokens = 0
    for batch in text_batches(first, [row.ids for row in rows], batch_size):
        n_tokens += int(batch.content_BL.sum())
        for number, model in enumerate((first, second)):
            acts_BLD = site_activations(model, [site], batch)[site]
            codes = sae.encode(acts_BLD[batch.content_BL])
            sums[number].index_add_(
                0, codes.indices.flatten().cpu(), codes.values.flatten().double().cpu()
            )
    means = sums / max(1, n_tokens)
    change_F = means[1] - means[0]
    order = change_F.abs().argsort(descending=True, stable=True)[:top]
    return [
        (f, float(means[0, f]), float(means[1, f])) for f in map(int, order) if change_F[f] != 0
    ]


def _require_alike(first: LanguageModel, second: LanguageModel) -> None:
    shapes = [(model.n_layers, model.d_model) for model in (first, second)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{first.name} has {shapes[0][0]} layers of width {shapes[0][1]}, {second.name} "
            f"{shapes[1][0]} of width {shapes[1][1]}; give two models of one architecture"
        )
    if first.tokenizer_hash != second.tokenizer_hash:
        raise InputError(
            f"{first.name} and {second.name} have different tokenizers; give two models that read "
            "the same tokens"
        )


def _read(
    model: LanguageModel,
    texts: Sequence[str],
    answers: Sequence[str] | None,
    config: ModelPairConfig,
) -> list[_Text]:
    if answers is None and (config.keep in ("gain", "loss") or config.tokens == "answer"):
        which = "keep" if config.keep in ("gain", "loss") else "tokens"
        raise InputError(
            f"{which} is {getattr(config, which)}, which needs the right answer of each text; give "
            "answers",
            field=which,
        )
    if answers is not None and len(answers) != len(texts):
        raise InputError(f"there are {len(texts)} texts and {len(answers)} answers; give as many")
    begin = [] if model.bos_id is None else [model.bos_id]
    rows: list[_Text] = []
    for number, text in enumerate(texts):
        ids = model.tokenize(text)
        answer = [] if answers is None else model.tokenize(answers[number])
        room = min(config.max_length, model.max_context - len(begin)) - len(answer)
        if ids and room > 0:
            ids = begin + ids[:room]
            rows.append(_Text(ids + answer, len(ids)))
    if not rows:
        raise InputError("no text has a token; give at least one")
    return rows


@torch.no_grad()
def _kept(
    first: LanguageModel,
    second: LanguageModel,
    rows: Sequence[_Text],
    with_answers: bool,
    config: ModelPairConfig,
) -> tuple[list[_Text], dict[str, Any]]:
    """The texts that count, and how many there are of each kind."""
    if config.keep == "all" and not with_answers:
        return list(rows), {"texts_read": len(rows)}
    likeliest = [_likeliest(model, rows, config.batch_size) for model in (first, second)]
    counts: dict[str, Any] = {"texts_read": len(rows)}
    differ = [a[0] != b[0] for a, b in zip(*likeliest, strict=True)]
    counts["disagree"] = sum(differ)
    chosen = differ
    if with_answers:
        right = [
            [
                len(row.ids) > row.n_text and tokens[:-1] == row.ids[row.n_text :]
                for row, tokens in zip(rows, of_model, strict=True)
            ]
            for of_model in likeliest
        ]
        kinds = {
            "both": [a and b for a, b in zip(*right, strict=True)],
            "neither": [not a and not b for a, b in zip(*right, strict=True)],
            "gain": [b and not a for a, b in zip(*right, strict=True)],
            "loss": [a and not b for a, b in zip(*right, strict=True)],
        }
        counts |= {name: sum(flags) for name, flags in kinds.items()}
        chosen = kinds.get(config.keep, differ)
    if config.keep == "all":
        return list(rows), counts
    kept = [row for row, keep in zip(rows, chosen, strict=True) if keep]
    if not kept:
        raise InputError(
            f"keep is {config.keep}, but none of the {len(rows)} texts is such a one; give other "
            "texts, or keep all",
            field="keep",
        )
    return kept, counts


def _likeliest(model: LanguageModel, rows: Sequence[_Text], batch_size: int) -> list[list[int]]:
    """Of each text the likeliest token behind it and behind each token of its answer."""
    found: dict[int, list[int]] = {}
    for batch in text_batches(model, [row.ids for row in rows], batch_size):
        best_BL = model.logits(batch.tokens_BL, batch.mask_BL).argmax(-1).cpu()
        for place, number in enumerate(batch.texts):
            row = rows[number]
            found[number] = [int(token) for token in best_BL[place, row.n_text - 1 : len(row.ids)]]
    return [found[number] for number in range(len(rows))]


def _counted(
    batch: TextBatch, rows: Sequence[_Text], config: ModelPairConfig
) -> Bool[Tensor, "B L"]:
    """Which tokens of a batch count."""
    if config.tokens == "all":
        return batch.content_BL
    counted_BL = torch.zeros_like(batch.content_BL)
    for number, row in enumerate(rows):
        if config.tokens == "last":
            counted_BL[number, row.n_text - 1] = True
        else:
            counted_BL[number, row.n_text : len(row.ids)] = True
    return counted_BL


def _cosine_of_halves(parts: Sequence[Float[Tensor, "_ D"]], seed: int) -> float | None:
    """Between the mean differences of two random halves of the texts; None of a single text."""
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return None
    order = list(range(len(parts)))
    random.Random(seed).shuffle(order)
    middle = len(order) // 2
    halves = [
        torch.cat([parts[number] for number in half]).mean(0)
        for half in (order[:middle], order[middle:])
    ]
    return float(torch.nn.functional.cosine_similarity(halves[0], halves[1], dim=0))
