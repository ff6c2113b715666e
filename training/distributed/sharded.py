"""Latents sharded over ranks: each encodes and decodes with its part of the dictionary.

The ranks form a device mesh, data parallel in one dimension and shards in the other. Along the
shards ranks have the same rows of a batch and together all latents; along the other dimension they
have the same latents and together all rows. For each row of the batch a rank takes the k largest of
its own latents and all-gathers their values over the shards, in the order of the latents. Every
rank then finds the k largest of all of them, of equal ones the first, and thereby which of its own
are kept. The reconstructions of the shards are summed by an all-reduce. The gradients of a latent's
weights need nothing from the other shards; only that of b_dec is a sum over them.
"""

import dataclasses

import torch
import torch.distributed as torch_dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from ...kernels.autoencode import Autoencoding
from ...kernels.codes import Codes
from ...kernels.decode import decode, decode_mse
from ...kernels.encode import encode_chosen, encode_topk
from ...kernels.topk import topk_select
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.config import SAEConfig
from ...sae.losses import in_float32, own_variance
from .data_parallel import DataParallel
from .gathering import gather_rows


class Sharded(DataParallel):
    """One of several ranks, each of which has some of the latents and some rows of every batch.

    Attributes:
        n_shards: number of parts into which the latents are divided.
        shard: which part this rank has, from 0.
    """

    def __init__(
        self,
        n_shards: int,
        device: torch.device,
        *,
        host_group: torch_dist.ProcessGroup | None = None,
    ) -> None:
        """A mesh of all ranks, whose number must be a multiple of `n_shards`; every rank calls
        this. `host_group` is as for `DataParallel`."""
        shape = torch_dist.get_world_size() // n_shards, n_shards
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "shard"))
        super().__init__(mesh.get_group("data"), host_group=host_group)
        self.topk_group = None
        self.n_shards = n_shards
        self.shard = torch_dist.get_rank() % n_shards
        self._world = DataParallel()
        self._shard_group = mesh.get_group("shard")

    def all_reduce_mean(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # Over all ranks, not only over those with other rows: the shards have the same mean but for
        # rounding, and where a decision depends on it, such as whether the loss is finite, all must
        # decide alike.
        return self._world.all_reduce_mean(value)

    def backward(
        self, loss: Float[Tensor, ""], module: nn.Module, touched_F: Bool[Tensor, "F"]
    ) -> None:
        super().backward(loss, module, touched_F)
        # Every encoder subtracts b_dec, and the decoder of shard 0 adds it, so all have a gradient.
        b_dec = module.get_parameter("b_dec").grad
        assert b_dec is not None
        self.sum_over_shards(b_dec)

    def gradient_norm(self, gradients: dict[str, Tensor]) -> Float[Tensor, ""]:
        # b_dec is the same on every shard and counts once.
        counted = {n: g for n, g in gradients.items() if n != "b_dec" or self.shard == 0}
        return self.sum_over_shards(super().gradient_norm(counted).square()).sqrt()

    def sum_over_shards(self, value: Tensor) -> Tensor:
        """All-reduce the sum over the shards that have the same rows, in place."""
        torch_dist.all_reduce(value, group=self._shard_group)  # pyright: ignore[reportUnknownMemberType] - untyped
        return value

    def topk_mask(self, values_BK: Float[Tensor, "B K"], k: int) -> Bool[Tensor, "B K"]:
        """Which of this rank's values are among the k largest of the row over all shards.

        Args:
            values_BK: [B, K] activations of this shard's candidates, in the order of their latents,
                0 where a slot is unused; K is the same on all shards.
            k: how many to keep of each row.
        """
        shards = [torch.empty_like(values_BK) for _ in range(self.n_shards)]
        torch_dist.all_gather(shards, values_BK.contiguous(), group=self._shard_group)  # pyright: ignore[reportUnknownMemberType] - untyped
        chosen = topk_select(torch.cat(shards, 1), k)
        # A slot that is kept has a positive value; unused slots, all at index 0, add nothing there.
        mask_BN = values_BK.new_zeros(len(values_BK), self.n_shards * values_BK.shape[1])
        mask_BN.scatter_add_(1, chosen.indices, (chosen.values > 0).to(mask_BN.dtype))
        return torch.chunk(mask_BN, self.n_shards, 1)[self.shard] > 0

    def gather_shards(self, shard: dict[str, Tensor], full: dict[str, Tensor]) -> None:
        # The ranks with the first rows of the batch have every shard; the others have copies.
        if self.data_rank:
            return
        for name, tensor in shard.items():
            if _has_row_per_latent(name):
                n_rows = len(tensor)
                parts = [slice(i * n_rows, (i + 1) * n_rows) for i in range(self.n_shards)]
                gather_rows(tensor, full.get(name), parts, self._shard_group)
            elif self.shard == 0:
                full[name].copy_(tensor)


def sharded_reconstruction(
    sae: SparseAutoencoder, x: Float[Tensor, "B D"], k: int, dist: Sharded
) -> Autoencoding:
    """The forward pass of an autoencoder of which each shard has some latents.

    Args:
        sae: this rank's shard.
        x: [B, D] rows in scaled units, the same on all shards.
        k: latents kept of each row, over all shards.
        dist: the shards.

    Returns:
        The reconstruction loss; the reconstructions from the latents of all shards, detached; and
        the codes of this shard's latents, of which a row may have none.
    """
    codes = _encode_shard(x, sae.center, sae.W_enc, sae.b_enc, k, dist)
    with torch.no_grad():
        own_BD = in_float32(decode(codes, sae.W_dec, torch.zeros_like(sae.b_dec)))
        all_BD = dist.sum_over_shards(own_BD.clone())
        target_BD = (x - (all_BD - own_BD)).to(x.dtype)
    # b_dec is the same on all shards, and its gradients are summed: one decoder's is enough.
    b_dec = sae.b_dec if dist.shard == 0 else sae.b_dec.detach()
    loss, _ = decode_mse(codes, sae.W_dec, b_dec, target_BD)
    return Autoencoding(loss, all_BD + sae.b_dec.detach(), codes)


def sharded_auxk(
    sae: SparseAutoencoder,
    x: Float[Tensor, "B D"],
    x_hat: Float[Tensor, "B D"],
    dead: Int[Tensor, "N"],
    k_aux: int,
    dist: Sharded,
) -> Float[Tensor, ""]:
    """The AuxK loss, as `auxk_loss`, over the dead latents of all shards.

    Args:
        sae: this rank's shard.
        x: [B, D] rows in scaled units, the same on all shards.
        x_hat: [B, D] their reconstructions from the latents of all shards.
        dead: [N] indices of the dead latents of this shard alone; N may differ between shards.
        k_aux: dead latents kept of each row, over all shards.
        dist: the shards.
    """
    # The host knows how many they are: a sum on a GPU would have to be waited for.
    k = min(k_aux, dist.sum_of_ranks(len(dead)) // dist.data_size)
    if not k:
        return x.new_zeros(())
    residual_BD = in_float32(x - x_hat).detach()
    codes = _encode_shard(x, sae.center, sae.W_enc[dead], sae.b_enc[dead], k, dist)
    own_BD = torch.zeros_like(residual_BD)
    if len(dead):
        own_BD = in_float32(decode(codes, sae.W_dec[dead], torch.zeros_like(sae.b_dec)))
    others_BD = dist.sum_over_shards(own_BD.detach().clone()) - own_BD.detach()
    loss, spread = dist.all_reduce_means(
        (own_BD + others_BD - residual_BD).square().mean(),
        own_variance(residual_BD, dist.all_reduce_mean),
    )
    return loss / spread.clamp(min=torch.finfo(loss.dtype).tiny)


def _encode_shard(
    x_BD: Tensor, b_dec_D: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, k: int, dist: Sharded
) -> Codes:
    """The codes of this shard's latents, without those that are not among a row's k largest over
    all shards."""

    def choose() -> Codes:
        indices_BK = torch.zeros(len(x_BD), k, dtype=torch.int64, device=x_BD.device)
        values_BK = x_BD.new_zeros(len(x_BD), k)
        n_own = min(k, len(W_enc_FD))
        if n_own:
            codes = encode_topk(x_BD, b_dec_D, W_enc_FD, b_enc_F, n_own)
            in_order = codes.indices.sort(dim=-1, stable=True)
            indices_BK[:, :n_own] = in_order.values
            values_BK[:, :n_own] = codes.values.gather(-1, in_order.indices)
        kept_BK = dist.topk_mask(values_BK, k)
        used_first_BK = kept_BK.logical_not().to(torch.uint8).argsort(dim=-1, stable=True)
        return Codes(
            indices_BK.masked_fill(~kept_BK, 0).gather(-1, used_first_BK),
            values_BK.masked_fill(~kept_BK, 0).gather(-1, used_first_BK),
            kept_BK.sum(-1),
        )

    if not len(W_enc_FD):
        return choose()
    return encode_chosen(x_BD, b_dec_D, W_enc_FD, b_enc_F, choose)


def require_shards(
    config: SAEConfig, shards: int, n_processes: int, k_start: int | None = None
) -> None:
    """Raise an InputError unless both the processes and the latents can be divided into the shards,
    and a shard has at least `k` latents, and `k_start` where k falls from there."""
    if n_processes % shards:
        raise InputError(
            f"shards is {shards}, which does not divide the number of processes, {n_processes}; "
            "start a multiple of it with torchrun --nproc-per-node",
            field="shards",
        )
    if config.n_latents % shards:
        raise InputError(
            f"shards is {shards}, which does not divide the {config.n_latents} latents; give "
            "another number of latents",
            field="shards",
        )
    for name, k in (("k", config.latents_of_row or 0), ("k_start", k_start or 0)):
        if k > config.n_latents // shards:
            raise InputError(
                f"shards is {shards}, which leaves each fewer latents than {name}, {k}; give fewer "
                "shards",
                field="shards",
            )


def shard_of(sae: SparseAutoencoder, dist: Sharded) -> SparseAutoencoder:
    """A new autoencoder with this rank's latents of a full one."""
    n_latents = sae.config.n_latents // dist.n_shards
    part = SparseAutoencoder(dataclasses.replace(sae.config, n_latents=n_latents))
    part.load_state_dict(shard_of_state(sae.state_dict(), dist))
    return part


def shard_of_state(state: dict[str, Tensor], dist: Sharded) -> dict[str, Tensor]:
    """Tensors of a full autoencoder or its trainer, by name: of those with a row for each latent
    only this rank's rows, the others as they are."""
    return {
        name: tensor.chunk(dist.n_shards)[dist.shard] if _has_row_per_latent(name) else tensor
        for name, tensor in state.items()
    }


def _has_row_per_latent(name: str) -> bool:
    return name.rpartition(".")[2] in ("W_enc", "b_enc", "W_dec", "tokens_since_fired")
