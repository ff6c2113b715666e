"""Activations at several sites from one pass, with gradients for what edits them on the way.

The pass ends at the last site that is wanted. Gradients flow from the activations of a site through
the model to the edits of all sites before; the weights of the model get none.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...kernels.numerics import at_least_float32
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ..encoding import first_tokens, read_limit

SiteEdit = Callable[[Tensor], Tensor]
"""From the activation [B, L, D] at a site to the one that the model goes on with."""

Pool = Literal["mean", "max", "none"]
"""What counts of a text at a site: the mean or the maximum over its content tokens, or each."""


@dataclass(frozen=True, eq=False)
class TextBatch:
    """Texts of one forward pass, padded on the right."""

    tokens_BL: Int[Tensor, "B L"]
    mask_BL: Bool[Tensor, "B L"]
    """Which are tokens of the text, BOS among them."""
    content_BL: Bool[Tensor, "B L"]
    """Which count: no special token, and no attention sink (`LanguageModel.excluded_tokens`)."""
    texts: tuple[int, ...]
    """Which of the texts these are."""


def token_rows(
    model: LanguageModel, texts: Sequence[str | Sequence[int]], *, max_length: int | None, of: str
) -> list[list[int]]:
    """The token ids of each text behind BOS; texts without a content token are left out.

    Args:
        model: whose tokenizer reads them.
        texts: texts, or token ids without BOS.
        max_length: tokens read of each at most, BOS not counted; by default 128.
        of: what the texts are called, in an error.

    Raises:
        InputError: no text has a content token.
    """
    limit = read_limit(model, max_length, 128)
    begin = [] if model.bos_id is None else [model.bos_id]
    rows: list[list[int]] = []
    for text in texts:
        ids = first_tokens(model, text, limit)[0] if isinstance(text, str) else []
        row = begin + (ids if isinstance(text, str) else list(text[:limit]))
        if row and not model.excluded_tokens(torch.tensor([row])).all():
            rows.append(row)
    if not rows:
        raise InputError(f"no {of} text has a token that counts; give texts of at least two words")
    return rows


def text_batches(
    model: LanguageModel, rows: Sequence[Sequence[int]], batch_size: int
) -> list[TextBatch]:
    """Token rows in batches of texts of like length, the longest first.

    Padding stands behind the text; of one length are the texts of a batch for a model that takes
    padding there for text.
    """
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    alike = "right" in model.wrong_padding
    batches: list[TextBatch] = []
    while order:
        longest = len(rows[order[0]])
        fitting = order[:batch_size]
        chosen = [n for n in fitting if len(rows[n]) == longest] if alike else fitting
        order = order[len(chosen) :]
        tokens_BL = torch.full((len(chosen), longest), model.pad_id)
        mask_BL = torch.zeros(len(chosen), longest, dtype=torch.bool)
        for place, number in enumerate(chosen):
            tokens_BL[place, : len(rows[number])] = torch.tensor(rows[number])
            mask_BL[place, : len(rows[number])] = True
        content_BL = ~model.excluded_tokens(tokens_BL, mask_BL)
        batches.append(TextBatch(tokens_BL, mask_BL, content_BL.to(model.device), tuple(chosen)))
    return batches


def in_order(model: LanguageModel, sites: Sequence[str]) -> list[str]:
    """Names of sites in the order in which the model computes them.

    Raises:
        InputError: there is none, one is named twice, or the model has no such site.
    """
    if not sites:
        raise InputError("no site is given; name at least one", field="site")
    for name in sites:
        model.site(name)
        if sites.count(name) > 1:
            raise InputError(f"the site {name} is given twice; give it once", field="site")
    return sorted(sites, key=model.site_names.index) if len(sites) > 1 else list(sites)


def site_activations(
    model: LanguageModel,
    sites: Sequence[str],
    batch: TextBatch,
    edits: Mapping[str, SiteEdit] | None = None,
) -> dict[str, Float[Tensor, "B L _"]]:
    """The activations at some sites as the model goes on with them, by name; gradients are kept.

    Args:
        model: the language model; wrap in `frozen` so that its weights take no part.
        sites: names in the model's order (`in_order`).
        batch: the texts.
        edits: what changes the activation at a site, by name. Sites behind see the change.
    """
    found: dict[str, Tensor] = {}
    wanted = set(sites)
    edits = dict(edits or {})

    def keeping(name: str) -> SiteEdit:
        def edit(h_BLD: Tensor) -> Tensor:
            changed_BLD = edits[name](h_BLD) if name in edits else h_BLD
            if name in wanted:
                found[name] = changed_BLD.clone()  # to which the layer might add in place
            if found.keys() == wanted:
                raise _Reached
            return changed_BLD

        return edit

    with ExitStack() as stack:
        for name in {**dict.fromkeys(sites), **edits}:
            stack.enter_context(model.site(name).write(keeping(name)))
        try:
            model.run(batch.tokens_BL, batch.mask_BL)
        except _Reached:
            return found
    raise RuntimeError(f"the model passed by {sorted(wanted - found.keys())}")


@contextmanager
def frozen(model: LanguageModel, *others: nn.Module) -> Generator[None]:
    """Within the context no weight of the model, or of other modules, asks for a gradient, which
    saves memory."""
    network: Any = model.network
    modules: list[Any] = [network.model, *filter(None, [getattr(network, "bridge", None)]), *others]
    weights = [w for module in modules for w in module.parameters() if w.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def pooled(
    acts_BLD: Float[Tensor, "B L D"], content_BL: Bool[Tensor, "B L"], pool: Pool
) -> Float[Tensor, "N D"]:
    """What counts of each text, in at least float32: [B, D], or with `none` a row for each content
    token."""
    wide_BLD = acts_BLD.to(at_least_float32(acts_BLD.dtype))
    if pool == "none":
        return wide_BLD[content_BL]
    content_BL1 = rearrange(content_BL, "b l -> b l 1")
    if pool == "max":
        return wide_BLD.masked_fill(~content_BL1, -torch.inf).amax(dim=1)
    return torch.where(content_BL1, wide_BLD, 0).sum(dim=1) / content_BL1.sum(dim=1)


class _Reached(Exception):
    """Ends a forward pass when everything wanted has been computed."""
