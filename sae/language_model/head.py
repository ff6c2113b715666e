"""The end of a language model's forward pass: from hidden states to logits and their losses, a few
positions at a time, so that memory stays small whatever the vocabulary."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from .network import Network

LOGITS_AT_ONCE = 1 << 24
"""Values of the logits held at once while losses are computed: 64 MB in float32."""

Head = Callable[[Tensor], Tensor]
"""From hidden states [..., H] to logits [..., V]."""


def hidden_and_head(
    network: Network, run: Callable[[], Tensor]
) -> tuple[Float[Tensor, "B L H"], Head]:
    """What a forward pass computes its logits from, and the function that computes them.

    The model's own head runs on the first position alone, which shows whether the model does
    something to the logits behind the unembedding, such as capping them; then the logits themselves
    and the identity are given.

    Args:
        network: what runs.
        run: makes the forward pass, and gives its logits.
    """
    taken: list[Tensor] = []

    def take(hidden_BLD: Tensor) -> Tensor:
        taken.append(hidden_BLD)
        return hidden_BLD[:1, :1]

    with network.head_hooked(take):
        first = run()
    (hidden_BLD,) = taken
    if torch.equal(network.head(hidden_BLD[:1, :1]), first):
        return hidden_BLD, network.head
    return run(), torch.nn.Identity()


def next_token_losses(
    hidden_BLD: Float[Tensor, "B L H"],
    head: Head,
    tokens_BL: Int[Tensor, "B L"],
    real_BL: Bool[Tensor, "B L"] | None,
    *,
    n_vocab: int,
    dtype: torch.dtype,
) -> Float[Tensor, "B L-1"]:
    """Cross entropy of every next token, in nats; 0 where it or the token before is padding.

    Args:
        hidden_BLD, head: as of `hidden_and_head`.
        tokens_BL: int64 token ids, on the device of the hidden states.
        real_BL: False at padding; None if there is none.
        n_vocab: V, the number of logits of a position.
        dtype: of the losses, and in which they are computed.
    """
    counted_BT = torch.ones_like(tokens_BL[:, 1:], dtype=torch.bool)
    if real_BL is not None:
        counted_BT = real_BL[:, 1:] & real_BL[:, :-1]
    hidden_ND = hidden_BLD[:, :-1][counted_BT]
    targets_N = tokens_BL[:, 1:][counted_BT]
    losses_N = torch.empty(len(targets_N), dtype=dtype, device=tokens_BL.device)
    at_once = max(1, LOGITS_AT_ONCE // n_vocab)
    for start in range(0, len(targets_N), at_once):
        part = slice(start, start + at_once)
        logits_NV = head(hidden_ND[part]).to(dtype)
        losses_N[part] = cross_entropy(logits_NV, targets_N[part], reduction="none")
    losses_BT = losses_N.new_zeros(counted_BT.shape)
    return losses_BT.masked_scatter(counted_BT, losses_N)
