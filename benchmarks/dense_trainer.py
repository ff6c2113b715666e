"""A top-k autoencoder's training as one writes it first: dense activations, autograd, Adam."""

import torch
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.sae import SparseAutoencoder, TopKConfig

_EPSILON = 6.25e-10


class DenseTrainer:
    """Trains a copy of the autoencoder's weights on rows in scaled units.

    Attributes:
        since_fired: [F] rows since each latent last fired.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        *,
        lr: float,
        auxk: float = 0.0,
        k_aux: int = 1,
        dead_after: int = 1 << 62,
    ) -> None:
        assert isinstance(sae.config, TopKConfig)
        self.k, self.lr, self.auxk, self.k_aux = sae.config.k, lr, auxk, k_aux
        self.dead_after = dead_after
        parameters = sae.b_dec, sae.W_enc, sae.b_enc, sae.W_dec
        self.b_dec, self.W_enc, self.b_enc, self.W_dec = (
            parameter.detach().clone().requires_grad_() for parameter in parameters
        )
        self.since_fired = torch.zeros(sae.config.n_latents, device=self.W_dec.device)
        self.optimizer = torch.optim.Adam(self.ordered(), lr=lr, eps=_EPSILON, fused=True)

    def ordered(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """b_dec, W_enc, b_enc, W_dec."""
        return self.b_dec, self.W_enc, self.b_enc, self.W_dec

    def step(self, x_BD: Tensor, lr: float | None = None) -> None:
        """One update; the rate is the constructor's unless given."""
        pre_BF = reference.pre_activations(x_BD, self.b_dec, self.W_enc, self.b_enc)
        acts_BF = kept(pre_BF, self.k)
        error_BD = acts_BF @ self.W_dec + self.b_dec - x_BD
        loss = error_BD.square().mean() + self._auxiliary(pre_BF, error_BD.detach())
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        assert self.W_dec.grad is not None
        self.W_dec.grad = reference.project_rows(self.W_dec.grad, self.W_dec.detach())
        self.optimizer.param_groups[0]["lr"] = self.lr if lr is None else lr
        self.optimizer.step()  # pyright: ignore[reportUnknownMemberType] - its closure is untyped
        torch.nn.functional.normalize(self.W_dec.data, dim=-1, out=self.W_dec.data)
        self.since_fired += len(x_BD)
        self.since_fired[(acts_BF > 0).any(0)] = 0

    def _auxiliary(self, pre_BF: Tensor, error_BD: Tensor) -> Tensor:
        dead_F = self.since_fired >= self.dead_after
        n_dead = int(dead_F.sum())
        if not (self.auxk and n_dead):
            return error_BD.new_zeros(())
        dead_hat_BD = kept(pre_BF[:, dead_F], min(self.k_aux, n_dead)) @ self.W_dec[dead_F]
        variance = (error_BD - error_BD.mean(0)).square().mean()
        return self.auxk * (dead_hat_BD + error_BD).square().mean() / variance


def kept(pre_BF: Tensor, k: int) -> Tensor:
    """Dense activations: the k largest of relu(pre)."""
    top = pre_BF.topk(k, sorted=False)
    return torch.zeros_like(pre_BF).scatter(-1, top.indices, top.values.relu())


@torch.no_grad()
def fvu(x_BD: Tensor, b_dec: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, k: int) -> float:
    """Fraction of the rows' variance that the weights leave unexplained."""
    acts_BF = kept(reference.pre_activations(x_BD, b_dec, W_enc, b_enc), k)
    error_BD = acts_BF @ W_dec + b_dec - x_BD
    return float(error_BD.square().sum() / (x_BD - x_BD.mean(0)).square().sum())
