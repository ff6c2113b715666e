"""A dictionary whose latents lie in several processes: each encodes and decodes with its own.

The processes are a mesh of groups by shards. Those of one group have the same rows and together
the whole dictionary; those of one shard have the same latents and together all rows of a batch.
Of each row a process takes the k largest of its latents and sends their values to its group, in
the order of the latents; every process finds the k largest of all these, of equal ones the first,
and so which of its own are kept. What they reconstruct is added up within the group. The gradients
of the latents' weights then need nothing from the group; only b_dec's is a sum over all.
"""

import dataclasses

import torch
import torch.distributed as dist
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
from ...sae.config import SAEConfig, TopKConfig
from ...sae.losses import variance
from .data_parallel import DataParallel


class Sharded(DataParallel):
    """A process that has some latents of the dictionary and, with its group, some rows of a batch.

    Attributes:
        shard: which part of the dictionary it has.
        shards: how many parts there are.
    """

    def __init__(self, shards: int, device: torch.device) -> None:
        """Of all processes, which must be a multiple of the shards; each calls this."""
        shape = dist.get_world_size() // shards, shards
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=("group", "shard"))
        super().__init__(mesh.get_group("group"))
        self.topk_group = None
        self.shards = shards
        self.shard = dist.get_rank() % shards
        self._all = DataParallel()
        self._row_group = mesh.get_group("shard")

    def mean(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        # Processes of a group have the same value but for rounding; all must decide alike on it.
        return self._all.mean(value)

    def backward(
        self, loss: Float[Tensor, ""], module: nn.Module, touched_F: Bool[Tensor, "F"]
    ) -> None:
        super().backward(loss, module, touched_F)
        shared = module.get_parameter("b_dec").grad
        assert shared is not None  # the decoder of the first shard adds it, every encoder takes it
        self.over_shards(shared)

    def gradient_norm(self, gradients: dict[str, Tensor]) -> Float[Tensor, ""]:
        own = {n: g for n, g in gradients.items() if n != "b_dec" or self.shard == 0}
        return self.over_shards(super().gradient_norm(own).square()).sqrt()

    def over_shards(self, value: Tensor) -> Tensor:
        """The sum over the shards of this process's rows, in place."""
        dist.all_reduce(value, group=self._row_group)  # pyright: ignore[reportUnknownMemberType] - untyped
        return value

    def kept(self, values_BK: Float[Tensor, "B K"], k: int) -> Bool[Tensor, "B K"]:
        """Which of the own values are among the row's k largest in all shards.

        Every row's are in the order of their latents; K is the same in all shards.
        """
        every = [torch.empty_like(values_BK) for _ in range(self.shards)]
        dist.all_gather(every, values_BK.contiguous(), group=self._row_group)  # pyright: ignore[reportUnknownMemberType] - untyped
        chosen = topk_select(torch.cat(every, 1), k)
        # Of a chosen slot the value is positive; unused ones, all at 0, add nothing there.
        marks_BN = values_BK.new_zeros(len(values_BK), self.shards * values_BK.shape[1])
        marks_BN.scatter_add_(1, chosen.indices, (chosen.values > 0).to(marks_BN.dtype))
        return torch.chunk(marks_BN, self.shards, 1)[self.shard] > 0

    def gather(self, own: dict[str, Tensor], whole: dict[str, Tensor]) -> None:
        """Put the first group's shards together in `whole`, which only the first process has."""
        if self.rank:
            return
        for name, tensor in own.items():
            parts = [torch.empty_like(tensor) for _ in range(self.shards)]
            first = self.shard == 0
            dist.gather(tensor, parts if first else None, group=self._row_group, group_dst=0)
            if first:
                whole[name].copy_(torch.cat(parts) if _is_of_latents(name) else tensor)


def sharded_reconstruction(
    sae: SparseAutoencoder, x: Float[Tensor, "B D"], k: int, parallel: Sharded
) -> Autoencoding:
    """The reconstruction loss of rows, the whole dictionary's reconstructions, detached, and the
    codes of the own latents, of which a row has k in all shards together."""
    codes = _encode(x, sae.center, sae.W_enc, sae.b_enc, k, parallel)
    with torch.no_grad():
        own_BD = decode(codes, sae.W_dec, torch.zeros_like(sae.b_dec))
        all_BD = parallel.over_shards(own_BD.clone())
    # b_dec is one for all shards: where its gradients are summed, one decoder's is enough.
    b_dec = sae.b_dec if parallel.shard == 0 else sae.b_dec.detach()
    loss, _ = decode_mse(codes, sae.W_dec, b_dec, x - (all_BD - own_BD))
    return Autoencoding(loss, all_BD + sae.b_dec.detach(), codes)


def sharded_auxk(
    sae: SparseAutoencoder,
    x: Float[Tensor, "B D"],
    x_hat: Float[Tensor, "B D"],
    dead: Int[Tensor, "N"],
    k_aux: int,
    parallel: Sharded,
) -> Float[Tensor, ""]:
    """`auxk_loss` with the dead latents of all shards, of which these are the own."""
    k = min(k_aux, int(parallel.over_shards(torch.tensor(len(dead), device=x.device))))
    if not k:
        return x.new_zeros(())
    residual_BD = (x - x_hat).detach()
    codes = _encode(x, sae.center, sae.W_enc[dead], sae.b_enc[dead], k, parallel)
    own_BD = torch.zeros_like(x)
    if len(dead):
        own_BD = decode(codes, sae.W_dec[dead], torch.zeros_like(sae.b_dec))
    others_BD = parallel.over_shards(own_BD.detach().clone()) - own_BD.detach()
    loss = parallel.mean((own_BD + others_BD - residual_BD).square().mean())
    return loss / variance(residual_BD, parallel.mean).clamp(min=torch.finfo(x.dtype).tiny)


def _encode(
    x_BD: Tensor, b_dec_D: Tensor, W_enc_FD: Tensor, b_enc_F: Tensor, k: int, parallel: Sharded
) -> Codes:
    """The codes of those of the own latents that are among the k largest of all shards."""

    def choose() -> Codes:
        indices_BK = torch.zeros(len(x_BD), k, dtype=torch.int64, device=x_BD.device)
        values_BK = x_BD.new_zeros(len(x_BD), k)
        n_own = min(k, len(W_enc_FD))
        if n_own:
            codes = encode_topk(x_BD, b_dec_D, W_enc_FD, b_enc_F, n_own)
            in_order = codes.indices.sort(dim=-1, stable=True)
            indices_BK[:, :n_own] = in_order.values
            values_BK[:, :n_own] = codes.values.gather(-1, in_order.indices)
        kept_BK = parallel.kept(values_BK, k)
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
    """Raise an InputError unless the processes can have the shards, and these the latents, also of
    a k that falls from `k_start`."""
    if n_processes % shards:
        raise InputError(
            f"shards is {shards}, which does not divide the number of processes, {n_processes}; "
            "start a multiple of it with torchrun --nproc-per-node"
        )
    if config.n_latents % shards:
        raise InputError(
            f"shards is {shards}, which does not divide the {config.n_latents} latents; give "
            "another number of latents"
        )
    if not isinstance(config, TopKConfig):
        return
    for name, k in (("k", config.k), ("k_start", k_start or 0)):
        if k > config.n_latents // shards:
            raise InputError(
                f"shards is {shards}, which leaves each fewer latents than {name}, {k}; give fewer "
                "shards"
            )


def shard_of(sae: SparseAutoencoder, parallel: Sharded) -> SparseAutoencoder:
    """An autoencoder of the process's latents alone."""
    n_latents = sae.config.n_latents // parallel.shards
    part = SparseAutoencoder(dataclasses.replace(sae.config, n_latents=n_latents))
    part.load_state_dict(shard_of_state(sae.state_dict(), parallel))
    return part


def shard_of_state(state: dict[str, Tensor], parallel: Sharded) -> dict[str, Tensor]:
    """The tensors of a whole dictionary, of those of its latents only the process's."""
    return {
        name: tensor.chunk(parallel.shards)[parallel.shard] if _is_of_latents(name) else tensor
        for name, tensor in state.items()
    }


def _is_of_latents(name: str) -> bool:
    return name.rpartition(".")[2] in ("W_enc", "b_enc", "W_dec", "tokens_since_fired")
