"""The oracles: every operator in eager PyTorch, dense, plain, and right in float64.

Fast implementations and tests compare with these. They build [B, F] freely and sort whole rows.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .codes import Codes


def topk_select(pre_BF: Float[Tensor, "B F"], k: int) -> Codes:
    """Keep the k largest positive pre-activations of each row; the lowest index wins a tie."""
    order_BF = pre_BF.argsort(dim=-1, descending=True, stable=True)
    indices_BK = order_BF[:, :k]
    values_BK = pre_BF.gather(-1, indices_BK).relu()
    return Codes(indices_BK.masked_fill(values_BK == 0, 0), values_BK)


def batch_topk_select(pre_BF: Float[Tensor, "B F"], k: int) -> Codes:
    """Keep the B * k largest positive entries of the whole batch; the first of equal ones wins."""
    order_N = pre_BF.flatten().argsort(descending=True, stable=True)[: len(pre_BF) * k]
    kept_BF = torch.zeros_like(pre_BF, dtype=torch.bool)
    kept_BF.view(-1)[order_N] = True
    return _codes_of(pre_BF, kept_BF & ~(pre_BF <= 0))


def jumprelu(pre_BF: Float[Tensor, "B F"], threshold_F: Float[Tensor, "F"]) -> Float[Tensor, "B F"]:
    """pre where it exceeds its latent's threshold, else 0, dense (arXiv 2407.14435)."""
    return torch.where(pre_BF > threshold_F, pre_BF, 0)


def jumprelu_threshold_gradient(
    pre_BF: Float[Tensor, "B F"],
    threshold_F: Float[Tensor, "F"],
    bandwidth: float,
    grad_acts_BF: Float[Tensor, "B F"],
    grad_gate_BF: Float[Tensor, "B F"],
) -> Float[Tensor, "F"]:
    """Straight through the jumps of activation and gate, with a rectangle of the bandwidth.

    -(threshold * dacts + dgate) / bandwidth summed over the rows with |pre - threshold| below half
    the bandwidth (arXiv 2407.14435, equations 11 and 12).
    """
    near_BF = (pre_BF - threshold_F).abs() < bandwidth / 2
    return -((threshold_F * grad_acts_BF + grad_gate_BF) * near_BF).sum(0) / bandwidth


def _codes_of(pre_BF: Float[Tensor, "B F"], kept_BF: Bool[Tensor, "B F"]) -> Codes:
    """The kept entries in rising order of their indices, with counts."""
    counts_B = kept_BF.sum(-1)
    M = max(1, int(counts_B.max())) if len(counts_B) else 1
    used_BM = torch.arange(M, device=pre_BF.device) < counts_B[:, None]
    order_BM = kept_BF.int().argsort(dim=-1, descending=True, stable=True)[:, :M]
    values_BM = pre_BF.gather(-1, order_BM).masked_fill(~used_BM, 0)
    return Codes(order_BM.masked_fill(~used_BM, 0), values_BM, counts_B)


def top_afa_select(
    pre_BF: Float[Tensor, "B F"],
    decoder_norms_F: Float[Tensor, "F"],
    target_B: Float[Tensor, "B"],
) -> Codes:
    """Keep the prefix of the descending order whose root of summed squares is nearest the target.

    The order is that of relu(pre) * decoder norm; the first minimum wins, and at least one latent
    is kept (top-AFA, arXiv 2503.24277, without its sentinel for "never all").
    """
    acts_BF = pre_BF.relu()
    scaled_BF, order_BF = (acts_BF * decoder_norms_F).sort(dim=-1, descending=True, stable=True)
    norm_BF = scaled_BF.square().cumsum(-1).sqrt()
    counts_B = (norm_BF - target_B[:, None]).abs().argmin(-1) + 1
    M = int(counts_B.max()) if len(counts_B) else 1
    used_BM = torch.arange(M, device=pre_BF.device) < counts_B[:, None]
    values_BM = acts_BF.gather(-1, order_BF[:, :M]) * used_BM
    return Codes(order_BF[:, :M].masked_fill(values_BM == 0, 0), values_BM, counts_B)


def pre_activations(
    x_BD: Float[Tensor, "B D"],
    b_dec_D: Float[Tensor, "D"],
    W_enc_FD: Float[Tensor, "F D"],
    b_enc_F: Float[Tensor, "F"],
) -> Float[Tensor, "B F"]:
    """(x - b_dec) @ W_enc^T + b_enc, with W_enc stored [F, D]."""
    return (x_BD - b_dec_D) @ W_enc_FD.T + b_enc_F


def decode(
    codes: Codes, W_dec_FD: Float[Tensor, "F D"], b_dec_D: Float[Tensor, "D"]
) -> Float[Tensor, "B D"]:
    """codes @ W_dec + b_dec."""
    return codes.dense(len(W_dec_FD)) @ W_dec_FD + b_dec_D


def weight_gradient(
    indices_BM: Int[Tensor, "B M"],
    coefficients_BM: Float[Tensor, "B M"],
    rows_BD: Float[Tensor, "B D"],
    n_latents: int,
) -> Float[Tensor, "F D"]:
    """out[f] = sum over the slots (b, m) that hold f of coefficients[b, m] * rows[b]."""
    return Codes(indices_BM, coefficients_BM).dense(n_latents).T @ rows_BD


def gathered_dots(
    indices_BM: Int[Tensor, "B M"],
    rows_BD: Float[Tensor, "B D"],
    weights_FD: Float[Tensor, "F D"],
) -> Float[Tensor, "B M"]:
    """out[b, m] = rows[b] . weights[indices[b, m]]."""
    return (rows_BD @ weights_FD.T).gather(-1, indices_BM)


def project_rows(
    gradient_FD: Float[Tensor, "*F D"], weights_FD: Float[Tensor, "*F D"]
) -> Float[Tensor, "*F D"]:
    """The gradient without its part along each (unit) row of the weights."""
    return gradient_FD - (gradient_FD * weights_FD).sum(-1, keepdim=True) * weights_FD


def generalized_jaccard_csr(
    offsets: Int[Tensor, "N_plus_1"],
    indices: Int[Tensor, "nnz"],
    values: Float[Tensor, "nnz"],
    prototype_F: Float[Tensor, "F"],
) -> Float[Tensor, "N"]:
    """sum min / sum max of each row with the prototype; duplicates are summed, 0/0 is 0."""
    rows = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    dense_NF = values.new_zeros(len(offsets) - 1, len(prototype_F))
    dense_NF.index_put_((rows, indices), values, accumulate=True)
    minima_N = torch.minimum(dense_NF, prototype_F).sum(-1)
    maxima_N = torch.maximum(dense_NF, prototype_F).sum(-1)
    return torch.where(maxima_N == 0, 0, minima_N / maxima_N)


def adam_step(
    weights: Float[Tensor, "*F D"],
    gradient: Float[Tensor, "*F D"],
    first: Float[Tensor, "*F D"],
    second: Float[Tensor, "*F D"],
    step: int,
    lr: float,
    betas: tuple[float, float],
    epsilon: float,
    unit_rows: bool,
) -> tuple[Float[Tensor, "*F D"], Float[Tensor, "*F D"], Float[Tensor, "*F D"]]:
    """Adam's step number `step` (from 1): the new weights and moments (arXiv 1412.6980).

    With unit_rows the gradient is projected first and the rows are scaled to norm 1 after.
    """
    if unit_rows:
        gradient = project_rows(gradient, weights)
    first = betas[0] * first + (1 - betas[0]) * gradient
    second = betas[1] * second + (1 - betas[1]) * gradient.square()
    mean = first / (1 - betas[0] ** step)
    variance = second / (1 - betas[1] ** step)
    weights = weights - lr * mean / (variance.sqrt() + epsilon)
    if unit_rows:
        norms = weights.square().sum(-1, keepdim=True).sqrt()
        weights = torch.where(norms > 0, weights / norms, 0)
    return weights, first, second
