"""A top-k autoencoder's training step as a good engineer writes it in an hour of PyTorch alone.

The encoder is one dense product and `torch.topk`. From there on everything is sparse: the decoder a
sum of gathered rows (`embedding_bag`), the weights' gradients sums of gathered rows over the slots
sorted by latent. Adam is PyTorch's fused one; decoder rows stay at norm 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

_EPSILON = 6.25e-10  # arXiv 2406.04093


class Gradients(NamedTuple):
    """The mean squared error of a batch, and its gradients."""

    loss: Tensor
    b_dec: Tensor
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor


class PlainSparseTrainer:
    """Trains copies of weights on rows in scaled units, without AuxK.

    Attributes:
        b_dec, W_enc, b_enc, W_dec: [D], [F, D], [F], [F, D] the weights.
        since_fired: [F] rows since each latent last fired.
    """

    def __init__(
        self, b_dec: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, *, k: int, lr: float
    ) -> None:
        weights = (weight.detach().clone() for weight in (b_dec, W_enc, b_enc, W_dec))
        self.b_dec, self.W_enc, self.b_enc, self.W_dec = weights
        self.k = k
        self.since_fired = torch.zeros(len(b_enc), dtype=torch.int64, device=b_enc.device)
        parameters = [self.b_dec, self.W_enc, self.b_enc, self.W_dec]
        self._optimizer = torch.optim.Adam(parameters, lr=lr, eps=_EPSILON, fused=True)

    @torch.no_grad()
    def encode(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """[B, k] latents and activations."""
        pre_BF = torch.addmm(self.b_enc, x_BD - self.b_dec, self.W_enc.T)
        values_BK, indices_BK = pre_BF.topk(self.k, sorted=False)
        return indices_BK, values_BK.relu_()

    def decode(self, indices_BK: Tensor, values_BK: Tensor) -> Tensor:
        """[B, D] reconstructions."""
        rows = embedding_bag(indices_BK, self.W_dec, per_sample_weights=values_BK, mode="sum")
        return rows + self.b_dec

    @torch.no_grad()
    def gradients(self, x_BD: Tensor, indices_BK: Tensor, values_BK: Tensor) -> Gradients:
        """Of the mean squared error, the choice of latents given."""
        with torch.enable_grad():
            leaf_BK = values_BK.detach().requires_grad_()
            x_hat_BD = self.decode(indices_BK, leaf_BK)
        residual_BD = x_hat_BD.detach() - x_BD
        grad_BD = residual_BD * (2 / residual_BD.numel())
        (grad_BK,) = torch.autograd.grad(x_hat_BD, leaf_BK, grad_BD)
        grad_BK.masked_fill_(values_BK == 0, 0)

        slots = indices_BK.flatten()
        order = slots.argsort()
        rows, n_latents = order // self.k, len(self.b_enc)
        starts = torch.bincount(slots, minlength=n_latents).cumsum(0)
        starts = torch.cat([starts.new_zeros(1), starts[:-1]])

        def sums_FD(weights_BK: Tensor, of_BD: Tensor) -> Tensor:
            weights = weights_BK.flatten()[order]
            return embedding_bag(rows, of_BD, starts, per_sample_weights=weights, mode="sum")

        grad_b_enc = grad_BK.new_zeros(n_latents).index_add_(0, slots, grad_BK.flatten())
        return Gradients(
            loss=residual_BD.square().mean(),
            b_dec=grad_BD.sum(0) - grad_b_enc @ self.W_enc,
            W_enc=sums_FD(grad_BK, x_BD - self.b_dec),
            b_enc=grad_b_enc,
            W_dec=sums_FD(values_BK, grad_BD),
        )

    @torch.no_grad()
    def step(self, x_BD: Tensor) -> Tensor:
        """One update; the loss before it."""
        indices_BK, values_BK = self.encode(x_BD)
        found = self.gradients(x_BD, indices_BK, values_BK)
        for name in ("b_dec", "W_enc", "b_enc", "W_dec"):
            getattr(self, name).grad = getattr(found, name)
        # Only what turns a decoder row counts: its length is put back below.
        along_F = (found.W_dec * self.W_dec).sum(-1, keepdim=True)
        found.W_dec.addcmul_(along_F, self.W_dec, value=-1)
        self._optimizer.step()  # pyright: ignore[reportUnknownMemberType] - its closure is untyped
        normalize(self.W_dec, dim=-1, out=self.W_dec)
        self.since_fired += len(x_BD)
        self.since_fired[indices_BK[values_BK > 0]] = 0
        return found.loss
