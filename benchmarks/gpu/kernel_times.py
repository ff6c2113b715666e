"""What the device can do at most, and each kernel against it: events, inputs out of the cache.

A floor is the time of the bytes that must move at the speed of a copy, or of the product in
PyTorch's library, both measured in this run; gathers may beat it where their rows stay in the L2.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sparsteer.kernels.autoencode import autoencoder_mse
from sparsteer.kernels.decode import decode, decode_mse
from sparsteer.kernels.encode import encode_topk
from sparsteer.kernels.optimizer import adam_step_, gradient_norm, normalize_rows_
from sparsteer.kernels.policy import backend_of, encode_plan
from sparsteer.kernels.top_afa import top_afa_select
from sparsteer.kernels.topk import topk_select

from .device import Call, Device
from .operator_checks import codes_with_a_dense_latent, drawn, dtype_of
from .rows import Judged, NotThere, Rows
from .sizes import LARGE, MIDDLE, SMALL, TINY, Sizes

_WHOLE_ROWS = 1 << 30
"""Elements of pre-activations that are held at once; of more, some rows stand for all."""


class Ceilings:
    """The device's measured limits.

    Attributes:
        gb_per_s: of a large copy, read and written.
        tflops: of a large square product, by precision.
    """

    def __init__(self, device: Device, tiny: bool) -> None:
        n = 1 << (12 if tiny else 30)
        source = torch.zeros(n, dtype=torch.uint8, device=device.kind)
        target = torch.empty_like(source)
        copy_ms = device.median_ms(lambda: target.copy_(source), 20)
        self.gb_per_s = 2 * n / copy_ms / 1e6
        del source, target
        device.release()
        self.tflops: dict[str, float] = {}
        side = 32 if tiny else 8192
        for precision in ("bfloat16", "tf32", "float32"):
            dtype = dtype_of(precision)
            a, b = drawn(device, side, side, dtype=dtype), drawn(device, side, side, dtype=dtype)
            out = torch.empty_like(a)
            ms = device.median_ms(partial(torch.mm, a, b, out=out), 10)
            self.tflops[precision] = 2 * side**3 / ms / 1e9

    def copy_ms(self, n_bytes: float) -> float:
        """Milliseconds of so many bytes."""
        return n_bytes / self.gb_per_s / 1e6


def time_kernels(device: Device, rows: Rows, tiny: bool) -> None:
    """Ceilings, then the kernels at each size, in bfloat16 first."""
    found: list[Ceilings] = []

    def ceilings() -> Judged:
        found.append(Ceilings(device, tiny))
        tflops = {f"{name}_tflops": value for name, value in found[0].tflops.items()}
        return Judged().note(copy_gb_per_s=found[0].gb_per_s, **tflops)

    rows.run("ceilings", ceilings)
    if not found:
        return
    plan = [(TINY, "float32")] if tiny else _PLAN
    for sizes, precision in plan:
        device.release()
        for name, prepare in _KERNELS.items():
            rows.run(
                f"{name} {sizes} {precision}",
                partial(_timed, device, found[0], sizes, precision, prepare),
            )
            device.release()


_PLAN = [
    (SMALL, "bfloat16"),
    (LARGE, "bfloat16"),
    (SMALL, "tf32"),
    (MIDDLE, "bfloat16"),
    (SMALL, "float32"),
]


class Timing:
    """What a kernel is timed by.

    Attributes:
        call: the kernel.  others: other ways to the same, by name.
        n_bytes: that must move.  flops: of the product, if it has one.
        scale: how often the call stands for the whole batch.
        path: which of its ways the kernel takes, if it has several.
    """

    def __init__(
        self,
        call: Call,
        *,
        n_bytes: float = 0.0,
        flops: float = 0.0,
        scale: float = 1.0,
        others: dict[str, Call] | None = None,
        path: str = "",
    ) -> None:
        self.call, self.n_bytes, self.flops, self.scale = call, n_bytes, flops, scale
        self.others = others or {}
        self.path = path


Prepare = Callable[[Device, Sizes, torch.dtype], Timing]


def _timed(
    device: Device, ceilings: Ceilings, sizes: Sizes, precision: str, prepare: Prepare
) -> Judged:
    timing = prepare(device, sizes, dtype_of(precision))
    with torch.no_grad():
        ms = timing.scale * device.median_ms(timing.call, 15)
        others = {
            name: timing.scale * device.median_ms(call, 5) for name, call in timing.others.items()
        }
    floor = timing.scale * max(
        ceilings.copy_ms(timing.n_bytes), timing.flops / ceilings.tflops[precision] / 1e9
    )
    found = Judged().note(ms=ms, floor_ms=floor, of_floor=floor / ms)
    if timing.flops:
        found.note(tflops=timing.scale * timing.flops / ms / 1e9)
    beside = [f"{name} {other / ms:.2f}" for name, other in others.items()]
    return found.note(times_as_long=", ".join(beside), path=timing.path)


def _pre(device: Device, sizes: Sizes, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Random pre-activations of as many rows as fit, and how often they make the batch."""
    n_rows = min(sizes.rows, max(1, _WHOLE_ROWS // sizes.latents))
    return drawn(device, n_rows, sizes.latents, dtype=dtype), sizes.rows / n_rows


def _encoder(device: Device, sizes: Sizes, dtype: torch.dtype) -> Timing:
    B, D, F, k = sizes
    x, W = drawn(device, B, D, dtype=dtype), drawn(device, F, D, dtype=dtype)
    b_enc, b_dec = drawn(device, F, dtype=dtype), drawn(device, D, dtype=dtype)
    n_rows = min(B, max(1, _WHOLE_ROWS // F))
    pre = torch.empty(n_rows, F, dtype=dtype, device=device.kind)

    def product(select: Callable[[Tensor], object]) -> None:
        for start in range(0, B, n_rows):
            rows = x[start : start + n_rows]
            select(torch.mm(rows, W.T, out=pre[: len(rows)]))

    others: dict[str, Call] = {
        "mm alone": lambda: product(lambda _: None),
        "mm + topk_select": lambda: product(lambda pre: topk_select(pre, k)),
        "mm + torch.topk": lambda: product(lambda pre: pre.topk(k, sorted=False)),
    }
    size = x.element_size()
    return Timing(
        lambda: encode_topk(x, b_dec, W, b_enc, k),
        n_bytes=(sizes.weights + B * D) * size + B * k * (8 + size),
        flops=sizes.product_flops,
        others=others,
        path=encode_plan(B, D, F, k, backend_of(x)).path,
    )


def _select(device: Device, sizes: Sizes, dtype: torch.dtype) -> Timing:
    pre, scale = _pre(device, sizes, dtype)
    k = sizes.k
    others: dict[str, Call] = {"torch.topk": lambda: pre.topk(k, sorted=False)}
    n_bytes = pre.numel() * pre.element_size()
    return Timing(lambda: topk_select(pre, k), n_bytes=n_bytes, scale=scale, others=others)


def _top_afa(l0: int, device: Device, sizes: Sizes, dtype: torch.dtype) -> Timing:
    if l0 > sizes.latents // 2:
        raise NotThere(f"{l0} of {sizes.latents} latents")
    pre, scale = _pre(device, sizes, dtype)
    norms = torch.ones(sizes.latents, device=device.kind)
    target = pre.relu().float().topk(l0).values.square().sum(-1).sqrt()
    others: dict[str, Call] = {"topk_select of as many": lambda: topk_select(pre, l0)}
    n_bytes = pre.numel() * pre.element_size()
    return Timing(
        lambda: top_afa_select(pre, norms, target), n_bytes=n_bytes, scale=scale, others=others
    )


def _decode(device: Device, sizes: Sizes, dtype: torch.dtype) -> Timing:
    B, D, F, _ = sizes
    codes = codes_with_a_dense_latent(device, sizes, dtype)
    W, b_dec = drawn(device, F, D, dtype=dtype), drawn(device, D, dtype=dtype)
    bag = torch.nn.functional.embedding_bag
    others: dict[str, Call] = {
        "embedding_bag": lambda: bag(codes.indices, W, per_sample_weights=codes.values, mode="sum")
    }
    n_bytes = (sizes.gathered + B * D) * W.element_size()
    return Timing(lambda: decode(codes, W, b_dec), n_bytes=n_bytes, others=others)


def _decode_mse(device: Device, sizes: Sizes, dtype: torch.dtype) -> Timing:
    B, D, F, _ = sizes
    codes = codes_with_a_dense_latent(device, sizes, dtype)
    W, b_dec = drawn(device, F, D, dtype=dtype), drawn(device, D, dtype=dtype)
    x = drawn(device, B, D, dtype=dtype)
    n_bytes = (sizes.gathered + 3 * B * D) * W.element_size()
    return Timing(lambda: decode_mse(codes, W, b_dec, x), n_bytes=n_bytes)


def _autoencoder(device: Device, sizes: Sizes, dtype: torch.dtype) -> Timing:
    """The loss of given codes and the gradients of all weights."""
    B, D, F, _ = sizes
    codes = codes_with_a_dense_latent(device, sizes, dtype)
    x = drawn(device, B, D, dtype=dtype)
    weights = drawn(device, D), drawn(device, F, D), drawn(device, F), drawn(device, F, D)
    weights = [tensor.to(dtype).requires_grad_() for tensor in weights]

    def call() -> None:
        with torch.enable_grad():
            torch.autograd.grad(autoencoder_mse(codes, x, *weights).loss, weights)

    gathers = 3 * sizes.gathered + 3 * B * D
    return Timing(call, n_bytes=(gathers + 2 * sizes.weights) * x.element_size())


def _adam(device: Device, sizes: Sizes, dtype: torch.dtype) -> Timing:
    """Weights, gradient and moments in float32, as in training, whatever the operands' dtype."""
    F, D = sizes.latents, sizes.width
    weights = normalize_rows_(drawn(device, F, D))
    gradient, first, second = drawn(device, F, D), drawn(device, F, D), drawn(device, F, D).abs_()

    def call() -> None:
        adam_step_(weights, gradient, first, second, step=9, lr=1e-4, unit_rows=True)

    return Timing(call, n_bytes=28 * sizes.weights)


def _norm(device: Device, sizes: Sizes, dtype: torch.dtype) -> Timing:
    gradients = [drawn(device, sizes.latents, sizes.width) for _ in range(2)]
    return Timing(lambda: gradient_norm(gradients), n_bytes=8 * sizes.weights)


_KERNELS: dict[str, Prepare] = {
    "encode_topk": _encoder,
    "topk_select": _select,
    "decode": _decode,
    "decode_mse": _decode_mse,
    "autoencoder_mse and gradients": _autoencoder,
    "adam_step_, unit rows": _adam,
    "gradient_norm": _norm,
    "top_afa_select, L0 64": partial(_top_afa, 64),
    "top_afa_select, L0 600": partial(_top_afa, 600),
}
