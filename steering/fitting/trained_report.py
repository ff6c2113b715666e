"""What is measured of a fit: how it separates texts it was not fitted to, and what it costs."""

import random
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from .separation import separation
from .shift import measure_shift
from .trained_capture import SiteEdit, in_order, site_activations, text_batches, token_rows


def held_out_split(
    rows: Sequence[list[int]], fraction: float, seed: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Texts to fit to, and those held out: a fraction of them rounded down, drawn with the seed.

    Raises:
        InputError: fewer than two would be left to fit to.
    """
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    n_held_out = int(fraction * len(rows))
    if len(rows) - n_held_out < 2:
        raise InputError(
            f"there are {len(rows)} texts to fit to, of which {n_held_out} are held out; give at "
            "least two more"
        )
    held_out = set(order[:n_held_out])
    fitted = [row for number, row in enumerate(rows) if number not in held_out]
    return fitted, [rows[number] for number in sorted(held_out)]


def separation_along(
    direction_D: Float[Tensor, "D"],
    positive_ND: Float[Tensor, "N D"],
    negative_MD: Float[Tensor, "M D"],
) -> dict[str, float] | None:
    """How far the projection on a direction tells two sets of rows apart; see `separation`."""
    rows_ND = torch.cat([positive_ND, negative_MD]).double()
    is_positive_N = torch.arange(len(rows_ND), device=rows_ND.device) < len(positive_ND)
    return separation(rows_ND @ direction_D.double(), is_positive_N)


@torch.no_grad()
def neutral_measures(
    model: LanguageModel,
    edits: Mapping[str, SiteEdit],
    texts: Sequence[str],
    *,
    batch_size: int,
    max_length: int | None = None,
) -> dict[str, Any]:
    """What edits do to texts that they are not meant for, at their content tokens.

    Args:
        model: the language model.
        edits: what changes the activation at each site, all at once.
        texts: none are allowed.
        batch_size: texts in one forward pass.
        max_length: tokens read of each text, by default 256.

    Returns:
        `neutral_kl` and `change_norm` as in a `FitReport`; the norms are of all sites together,
        each beside the activation that it finds there. Nothing for no texts.
    """
    if not texts or not edits:
        return {}
    shift = measure_shift(
        model,
        lambda: written(model, edits),
        texts,
        batch_size=batch_size,
        max_length=max_length,
    )
    sizes: list[Tensor] = []

    def noted(edit: SiteEdit, content_BL: Tensor) -> SiteEdit:
        def apply(h_BLD: Tensor) -> Tensor:
            changed_BLD = edit(h_BLD)
            moved_N = row_norms((changed_BLD - h_BLD)[content_BL].double())
            sizes.append(moved_N / row_norms(h_BLD[content_BL].double()).clamp(min=1e-300))
            return changed_BLD

        return apply

    rows = token_rows(model, texts, max_length=max_length, of="neutral")
    sites = in_order(model, list(edits))
    for batch in text_batches(model, rows, batch_size):
        with_sizes = {name: noted(edit, batch.content_BL) for name, edit in edits.items()}
        site_activations(model, sites, batch, with_sizes)
    quantiles = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64, device=sizes[0].device)
    low, median, high = (float(q) for q in torch.cat(sizes).quantile(quantiles))
    return {
        "neutral_kl": shift.kl_base_steered,
        "change_norm": {"median": median, "p5": low, "p95": high},
    }


@contextmanager
def written(model: LanguageModel, edits: Mapping[str, SiteEdit]) -> Generator[None]:
    """Within the context the model goes on with the edited activations."""
    with ExitStack() as stack:
        for name, edit in edits.items():
            stack.enter_context(model.site(name).write(edit))
        yield
