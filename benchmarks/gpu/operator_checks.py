"""Every operator at its production tiles against float64, several times and on another stream."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from sparsteer.kernels import reference
from sparsteer.kernels.autoencode import autoencoder_mse
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.decode import decode
from sparsteer.kernels.encode import encode_topk
from sparsteer.kernels.optimizer import adam_step_, normalize_rows_
from sparsteer.kernels.policy import backend_of, encode_plan, sparse_plan
from sparsteer.kernels.top_afa import top_afa_select
from sparsteer.kernels.topk import topk_select

from .device import Device
from .rows import Judged, NotThere, Rows
from .sizes import Sizes, allow_tf32

ROWS_COMPARED = 256
"""Rows that are compared with float64, spread over the batch."""
LIMITS = {"bfloat16": 2**-7, "tf32": 2**-7, "float32": 1e-5}
"""Largest relative error of a value: two roundings of the operands' dtype."""


def check_operators(device: Device, rows: Rows, tiny: bool) -> None:
    """All of the operators, those first that a training step spends most time in."""
    for sizes, precisions in _encoders(tiny):
        for precision in precisions:
            rows.run(
                f"encode_topk {sizes} {precision}",
                partial(check_encode, device, sizes, precision),
            )
    for sizes in [Sizes(8, 20, 150, 1)] if tiny else _PRODUCTS:
        for precision in ("bfloat16", "float32"):
            rows.run(
                f"autoencoder_mse {sizes} {precision}",
                partial(check_products, device, sizes, precision),
            )
    for shape in [(5, 300, 7)] if tiny else _SELECTIONS:
        for dtype in (torch.bfloat16, torch.float32):
            rows.run(f"topk_select {shape} {dtype}", partial(check_topk, device, *shape, dtype))
    for shape in [(4, 300, 9)] if tiny else _AFA:
        rows.run(f"top_afa_select {shape}", partial(check_top_afa, device, *shape))
    for shape in [(30, 40)] if tiny else [(12288, 768), (4096, 4096), (2048, 8192)]:
        rows.run(f"adam_step_ {shape}", partial(check_adam, device, *shape))
    far = (300, 40) if tiny else (600_000, 4096)
    rows.run(f"decode, the last rows of {far}", partial(check_far_rows, device, *far))


# The second has sizes that no tile divides; the last two take the product apart from selection.
_ENCODERS = [
    (Sizes(8192, 768, 12288, 32), ("bfloat16", "tf32", "float32")),
    (Sizes(8191, 768, 12290, 32), ("bfloat16", "tf32")),
    (Sizes(4096, 2304, 65536, 64), ("bfloat16", "tf32")),
    (Sizes(2048, 1000, 131072, 64), ("bfloat16",)),
    (Sizes(2048, 4096, 131072, 64), ("bfloat16",)),
]
_PRODUCTS = [Sizes(8192, 768, 12288, 32), Sizes(2048, 4096, 32768, 64), Sizes(1000, 1000, 20000, 7)]
_SELECTIONS = [(8192, 12288, 32), (1024, 32768, 64), (512, 131072, 64), (256, 65537, 2048)]
_AFA = [(1024, 12288, 64), (256, 12288, 900), (128, 131072, 300)]


def _encoders(tiny: bool) -> Sequence[tuple[Sizes, tuple[str, ...]]]:
    # The interpreter cannot multiply bfloat16, but the path without the fused kernel can.
    if tiny:
        return [(Sizes(40, 96, 600, 4), ("tf32",)), (Sizes(20, 16, 60, 3), ("bfloat16", "float32"))]
    return _ENCODERS


def drawn(device: Device, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers, drawn on the device."""
    return torch.randn(*shape, device=device.kind).to(dtype)


def dtype_of(precision: str) -> torch.dtype:
    """The operands' dtype; float32 products round their factors to TF32 from here on, or do not."""
    allow_tf32(precision == "tf32")
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def repeats(device: Device, call: Callable[[], Sequence[Tensor]], n: int, found: Judged) -> None:
    """Whether calls give the same bits n times more, and once on another stream."""
    first = [tensor.clone() for tensor in call()]

    def same() -> bool:
        return all(torch.equal(a, b) for a, b in zip(first, call(), strict=True))

    found.holds("same_bits", all([same() for _ in range(min(n, device.most_repeats))]))
    with device.other_stream():
        again = [tensor.clone() for tensor in call()]
    device.synchronize()
    found.holds("other_stream", all(torch.equal(a, b) for a, b in zip(first, again, strict=True)))


def relative(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference by that of the exact result; NaN stays."""
    off, size = (found.double() - exact).square().sum(), exact.square().sum()
    return float((off / size.clamp(min=1e-300)).sqrt())


def check_encode(device: Device, sizes: Sizes, precision: str) -> Judged:
    """The values are the products at the indices, the indices those of the largest products."""
    B, D, F, k = sizes
    dtype = dtype_of(precision)
    x, W = drawn(device, B, D, dtype=dtype), drawn(device, F, D, dtype=dtype)
    b_enc, b_dec = drawn(device, F, dtype=dtype), torch.zeros(D, dtype=dtype, device=device.kind)
    codes = encode_topk(x, b_dec, W, b_enc, k)
    some = torch.linspace(0, B - 1, min(B, ROWS_COMPARED), device=device.kind).long()
    pre = x[some].double() @ W.double().T + b_enc.double()
    at = codes.indices[some]
    chosen, best = pre.gather(-1, at), pre.topk(k).values
    found = Judged().note(path=encode_plan(B, D, F, k, backend_of(x)).path)
    limit = LIMITS[precision]
    found.at_most("value_error", relative(codes.values[some], chosen.relu()), limit)
    missed = (best - chosen.sort(descending=True).values).abs().max() / best.abs().mean()
    found.at_most("choice_error", float(missed), 2 * limit)
    found.holds("distinct", bool((at.sort(-1).values.diff() != 0).all()))
    repeats(device, lambda: encode_topk(x, b_dec, W, b_enc, k)[:2], 3, found)
    return found


def check_topk(device: Device, B: int, F: int, k: int, dtype: torch.dtype) -> Judged:
    """Exactly the k largest, whatever the dtype."""
    pre = drawn(device, B, F, dtype=dtype)
    codes = topk_select(pre, k)
    best = pre.topk(k).values.clamp(min=0)
    found = Judged()
    found.holds("values", torch.equal(codes.values.sort(descending=True).values, best))
    found.holds("indices", torch.equal(pre.gather(-1, codes.indices).clamp(min=0), codes.values))
    repeats(device, lambda: topk_select(pre, k)[:2], 3, found)
    return found


def check_top_afa(device: Device, B: int, F: int, l0: int) -> Judged:
    """As many latents as in float64, for targets that l0 latents just reach."""
    pre = drawn(device, B, F)
    norms = 0.9 + 0.2 * torch.rand(F, device=device.kind)
    scaled = (pre.relu() * norms).sort(descending=True).values.double()
    reached = scaled.square().cumsum(-1).sqrt()
    target = (reached[:, l0 - 1] * 1.0001).float()
    counts = top_afa_select(pre, norms, target).counts
    assert counts is not None
    off = (counts - (reached - target[:, None].double()).abs().argmin(-1) - 1).abs()
    found = Judged()
    found.at_most("rows_off", float((off > 0).double().mean()), 0.01)
    found.at_most("worst", float(off.max()), 2)
    repeats(device, lambda: top_afa_select(pre, norms, target)[:2], 2, found)
    return found


def codes_with_a_dense_latent(device: Device, sizes: Sizes, dtype: torch.dtype) -> Codes:
    """Distinct random latents, and one that half of the rows have, so that it is split."""
    B, _, F, k = sizes
    # One latent of each of k groups of eight; the last group has the dense latent alone.
    order = torch.rand(B, F // 8 - 1, device=device.kind).argsort(-1)[:, :k]
    indices = order * 8 + torch.arange(k, device=device.kind) % 8
    indices[: B // 2, 0] = F - 1
    return Codes(indices, 0.5 + torch.rand(B, k, device=device.kind).to(dtype))


def check_products(device: Device, sizes: Sizes, precision: str) -> Judged:
    """Loss, reconstructions and all gradients of given codes, against dense ones in float64."""
    B, D, F, _ = sizes
    dtype = dtype_of(precision)
    codes = codes_with_a_dense_latent(device, sizes, dtype)
    x = drawn(device, B, D, dtype=dtype)
    W_enc, W_dec = (normalize_rows_(drawn(device, F, D)).to(dtype) for _ in range(2))
    b_dec, b_enc = drawn(device, D, dtype=dtype), drawn(device, F, dtype=dtype)
    parameters = [t.requires_grad_() for t in (b_dec, W_enc, b_enc, W_dec)]

    def call() -> list[Tensor]:
        out = autoencoder_mse(codes, x, *parameters)
        gradients = torch.autograd.grad(out.loss, parameters)
        return [out.loss.detach(), out.x_hat, *gradients]

    found = Judged().note(path=sparse_plan(F, sizes.k, backend_of(x)).path)
    with torch.no_grad():
        exact = dense_gradients(codes, x, b_dec, W_enc, W_dec)
    names = ("loss", "x_hat", "b_dec", "W_enc", "b_enc", "W_dec")
    ours = call()
    for name, tensor, wanted in zip(names, ours, exact, strict=True):
        found.at_most(name, relative(tensor, wanted), LIMITS[precision] * 2)
    heavy = int(codes.indices[0, 0])
    found.at_most("heavy_row", relative(ours[-1][heavy], exact[-1][heavy]), LIMITS[precision] * 2)
    repeats(device, call, 5, found)
    return found


def dense_gradients(
    codes: Codes, x: Tensor, b_dec: Tensor, W_enc: Tensor, W_dec: Tensor
) -> list[Tensor]:
    """Loss, reconstructions, and the gradients of b_dec, W_enc, b_enc and W_dec in float64."""
    F, wide = len(W_dec), codes._replace(values=codes.values.double())
    rows, W = x.double(), W_dec.double()
    x_hat = reference.decode(wide, W, b_dec.double())
    r = (x_hat - rows) * (2 / x.numel())
    loss = (x_hat - rows).square().mean()
    d = reference.gathered_dots(codes.indices, r, W)
    d_enc = reference.weight_gradient(codes.indices, d, rows - b_dec.double(), F)
    d_dec = reference.weight_gradient(codes.indices, wide.values, r, F)
    d_bias = Codes(codes.indices, d).dense(F).sum(0)
    return [loss, x_hat, r.sum(0) - d_bias @ W_enc.double(), d_enc, d_bias, d_dec]


def check_adam(device: Device, F: int, D: int) -> Judged:
    """One step with unit rows."""
    weights = normalize_rows_(drawn(device, F, D))
    state = [drawn(device, F, D), 0.1 * drawn(device, F, D), 0.1 * drawn(device, F, D).abs()]
    w64, g64, m64, v64 = (tensor.double() for tensor in (weights, *state))
    exact = reference.adam_step(w64, g64, m64, v64, 3, 1e-3, (0.9, 0.999), 6e-10, True)

    def call() -> list[Tensor]:
        w, g, m, v = (tensor.clone() for tensor in (weights, *state))
        adam_step_(w, g, m, v, step=3, lr=1e-3, epsilon=6e-10, unit_rows=True)
        return [w, m, v]

    found = Judged()
    for name, tensor, wanted in zip(("weights", "first", "second"), call(), exact, strict=True):
        found.at_most(name, relative(tensor, wanted), 1e-6)
    repeats(device, call, 3, found)
    return found


def check_far_rows(device: Device, F: int, D: int) -> Judged:
    """Rows whose offset is beyond 2^31 elements, where the sizes are the real ones."""
    need = 1.3 * F * D * 2 / 1e9
    if device.free_gb() < need:
        raise NotThere(f"memory: {need:.0f} GB of the device")
    W = torch.zeros(F, D, dtype=torch.bfloat16, device=device.kind)
    W[-8:] = drawn(device, 8, D, dtype=torch.bfloat16)
    indices = F - 1 - torch.arange(8, device=device.kind).repeat(64, 1)
    values = torch.rand(64, 8, device=device.kind).to(torch.bfloat16)
    out = decode(Codes(indices, values), W, torch.zeros_like(W[0]))
    found = Judged().note(elements_by_2_31=W.numel() / 2**31)
    exact = values.double() @ W[indices[0]].double()
    found.at_most("error", relative(out, exact), LIMITS["bfloat16"])
    return found
