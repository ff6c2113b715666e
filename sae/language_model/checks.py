"""What of a loaded model can be trusted, found with a few tokens: its logits, padding, its cache.

TransformerLens puts layers of its own into the model of transformers, and both change. Where the
two no longer fit, a model gives other values without a word: a state that never reaches the cache,
padding that is read as text. Every kind of model is therefore asked once, when it first matters.
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ..common.errors import InputError
from ..common.text import first_line
from .bridge_network import BridgeNetwork
from .kv_cache import cached_positions, cut_columns, join_caches, keep_rows, new_cache
from .network import Network

Side = Literal["left", "right"]
"""Where a row is filled up."""

_LONG, _SHORT = 7, 4
"""Tokens of the two rows that a model is asked with."""
_STEPS = 2
"""Tokens of each that come one at a time, from the cache."""


@torch.no_grad()
def plain_logits(model: PreTrainedModel, *, path: str, device: torch.device) -> Float[Tensor, "V"]:
    """The logits behind a short row as transformers alone gives them, before the bridge is built.

    Raises InputError where the model cannot be run.
    """
    network: Any = model
    config = network.config.get_text_config()
    row_BL = _rows(config.vocab_size, _context(config))[0][None].to(device)
    with _explained(path, model, "transformers cannot run"):
        return network(row_BL, use_cache=False).logits[0, -1]


@torch.no_grad()
def require_sound(bridge: BridgeNetwork, plain_V: Float[Tensor, "V"], *, path: str) -> None:
    """Raise InputError unless the bridge has sites and gives the logits of `plain_logits`.

    With and without a mask, which says nothing here: every layer has to take it.
    """
    model: Any = bridge.model
    middle = f"blocks.{bridge.n_layers // 2}.hook_resid_post"
    passed: list[str] = []

    def see(acts: Tensor) -> None:
        passed.append(middle)

    row_BL = _rows(bridge.n_vocab, bridge.max_context)[0][None].to(plain_V.device)
    for mask_BL in (None, torch.ones_like(row_BL)):
        with ExitStack() as stack:
            stack.enter_context(_explained(path, model, "TransformerLens cannot run"))
            if bridge.has(middle):
                stack.enter_context(bridge.hooked(middle, see))
            logits_V = bridge(row_BL, mask_BL, use_cache=False)[0, -1]
        if (far := _distance(logits_V, plain_V)) > _rounding(plain_V.dtype):
            raise InputError(
                f"{path!r} is a model of type {model.config.model_type}, for which TransformerLens "
                f"gives other logits than transformers ({far:.2g} of their deviation apart); use "
                "another model"
            )
    if not passed:
        raise InputError(
            f"{path!r} is a model of type {model.config.model_type}, in which TransformerLens "
            "finds no residual stream to read; use another model"
        )


@torch.no_grad()
def differing_site(one: Network, other: Network, sites: Sequence[str]) -> str | None:
    """The first of some sites of `one` that `other` has not, or where it has other activations."""
    row_BL = _rows(one.n_vocab, one.max_context)[0][None].to(one.device)
    found: list[dict[str, Tensor]] = [{}, {}]
    for network, acts in zip((one, other), found, strict=True):
        with ExitStack() as stack:
            for site in filter(network.has, sites):
                stack.enter_context(network.hooked(site, _keep(acts, site)))
            network(row_BL, use_cache=False)
    expected, given = found
    for site in sites:
        if site not in given or given[site].shape != expected[site].shape:
            return site
        wanted, got = expected[site].double(), given[site].double()
        if (
            not (got - wanted).square().sum()
            <= _rounding(expected[site].dtype) ** 2 * wanted.square().sum()
        ):
            return site
    return None


def _keep(acts: dict[str, Tensor], site: str) -> Callable[[Tensor], None]:
    def keep(acts_BLD: Tensor) -> None:
        acts[site] = acts_BLD.clone()

    return keep


@torch.no_grad()
def wrong_padding(network: Network) -> frozenset[Side]:
    """The sides on which padding changes what a row's own tokens give."""
    short_L, (left_BL, left_mask_BL), (right_BL, right_mask_BL) = _padded(network)
    with network.asked():
        alone_LV = network(short_L[None], use_cache=False)[0]
        left_LV = network(left_BL, left_mask_BL, use_cache=False)[1, -len(short_L) :]
        right_LV = network(right_BL, right_mask_BL, use_cache=False)[1, : len(short_L)]
    limit = _rounding(alone_LV.dtype)
    found: dict[Side, float] = {
        "left": _distance(left_LV, alone_LV),
        "right": _distance(right_LV, alone_LV),
    }
    return frozenset(side for side, far in found.items() if far > limit)


@torch.no_grad()
def cache_fault(network: Network) -> str | None:
    """Why steps with a key-value cache cannot be trusted; None if they give what a pass without
    one gives, for a row alone and in a batch padded on the left."""
    _, (batch_BL, mask_BL), _ = _padded(network)
    with network.asked():
        for tokens_BL, given_BL in ((batch_BL[:1], mask_BL[:1]), (batch_BL, mask_BL)):
            whole_BLV = network(tokens_BL, given_BL, use_cache=False)
            try:
                cached_BLV = _in_steps(network, tokens_BL, given_BL)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                return f"the model has no use for one ({first_line(error)[:200]})"
            real_BL = given_BL.bool()
            far = _distance(cached_BLV[real_BL], whole_BLV[real_BL])
            if far > _rounding(whole_BLV.dtype):
                where = "a row alone" if len(tokens_BL) == 1 else "padded rows"
                return f"with one its logits are others ({far:.2g} of their deviation in {where})"
    return None


@torch.no_grad()
def joining_fault(network: Network) -> str | None:
    """Why rows cannot join and leave a batch that is being continued from its cache; None if each
    then gives what it gives in a pass without one."""
    long_L, short_L = (
        row.to(network.device) for row in _rows(network.n_vocab, network.max_context)
    )
    rows = (long_L, short_L)
    n_more = len(long_L) - len(short_L)

    def ones(n_rows: int, length: int) -> Tensor:
        return torch.ones(n_rows, length, dtype=torch.int64, device=network.device)

    with network.asked():
        whole = [network(row[None], use_cache=False)[0, -2:] for row in rows]
        try:
            (name, cache), (_, other) = new_cache(network.model), new_cache(network.model)
            for row, own in zip(rows, (cache, other), strict=True):
                given = {name: own, "use_cache": True}
                network(row[None, :-2], ones(1, len(row) - 2), **given)
            join_caches(cache, other)
            mask_BT = ones(2, len(long_L) - 1)
            mask_BT[1, :n_more] = 0
            given = {name: cache, "use_cache": True}
            next_B1 = torch.stack([row[-2:-1] for row in rows])
            both_BV = network(next_B1, mask_BT, **given)[:, -1]
            keep_rows(cache, torch.tensor([1], device=network.device))
            cut_columns(cache, n_more)
            last_V = network(short_L[None, -1:], ones(1, len(short_L)), **given)[0, -1]
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            return f"rows cannot join its cache ({first_line(error)[:200]})"
    far = max(
        _distance(both_BV, torch.stack([each[0] for each in whole])),
        _distance(last_V, whole[1][1]),
    )
    if far > _rounding(last_V.dtype):
        return f"its logits are others once rows join ({far:.2g} of their deviation)"
    return None


def _in_steps(
    network: Network, tokens_BL: Int[Tensor, "B L"], mask_BL: Int[Tensor, "B L"]
) -> Float[Tensor, "B L V"]:
    """The logits of a pass over all but the last tokens, and of those one at a time."""
    name, cache = new_cache(network.model)
    width = tokens_BL.shape[1]
    ends = [*range(max(1, width - _STEPS), width + 1)]
    parts: list[Tensor] = []
    for start, end in zip([0, *ends], ends, strict=False):
        given = {name: cache, "use_cache": True}
        parts.append(network(tokens_BL[:, start:end], mask_BL[:, :end], **given))
        if cached_positions(cache, end) != end:
            raise ValueError(f"it keeps {cached_positions(cache, end)} of {end} positions")
    return torch.cat(parts, dim=1)


def _padded(
    network: Network,
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A short row, and it below a longer one, padded on the left and on the right, with masks."""
    rows = _rows(network.n_vocab, network.max_context)
    long_L, short_L = (row.to(network.device) for row in rows)
    batches: list[tuple[Tensor, Tensor]] = []
    for first in (len(long_L) - len(short_L), 0):
        place = slice(first, first + len(short_L))
        tokens_BL = torch.stack([long_L, long_L])
        mask_BL = torch.stack([torch.ones_like(long_L), torch.zeros_like(long_L)])
        tokens_BL[1, place], mask_BL[1, place] = short_L, 1
        batches.append((tokens_BL, mask_BL))
    return short_L, batches[0], batches[1]


def _rows(vocabulary: int, context: int) -> tuple[Int[Tensor, "L"], Int[Tensor, "S"]]:
    """Two rows of any tokens, the same at every call, the second one shorter."""
    draw = torch.Generator().manual_seed(0)
    tokens_L = torch.randint(vocabulary, (_LONG + _SHORT,), generator=draw)
    return tokens_L[: min(_LONG, context)], tokens_L[_LONG:][: min(_SHORT, context)]


def _context(config: Any) -> int:
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else _LONG


def _distance(found: Float[Tensor, "*N V"], expected: Float[Tensor, "*N V"]) -> float:
    """Root mean square of the difference, in deviations of the expected logits; 0 where those are
    no numbers, of which nothing can be said, and infinity where only the found ones are none."""
    found, expected = found.double(), expected.double()
    if not expected.isfinite().all():
        return 0.0
    if not found.isfinite().all():
        return math.inf
    deviation = (expected - expected.mean(dim=-1, keepdim=True)).square().mean().sqrt()
    distance = (found - expected).square().mean().sqrt()
    return float(distance / deviation.clamp(min=torch.finfo(torch.float32).tiny))


def _rounding(dtype: torch.dtype) -> float:
    """More than sums in another order change logits by: half of the dtype's digits.

    Many models compute parts in float32 whatever their dtype.
    """
    return 2 * math.sqrt(max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps))


@contextmanager
def _explained(path: str, model: Any, what: str) -> Generator[None]:
    """Turn what a model raises, which may be anything, into a sentence that names its type."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        dtype = str(model.dtype).removeprefix("torch.")
        raise InputError(
            f"{path!r} is a model of type {model.config.model_type}, which {what} in {dtype} "
            f"({first_line(error)[:200]}); use another {'model' if dtype == 'float32' else 'dtype'}"
        ) from error
