"""Time every operator at given shapes against eager PyTorch and a floor measured in the same run.

    python benchmarks/bench_kernels.py [--device cpu|cuda] [--rows 4096] [--width 768]
        [--latents 12288] [--k 32] [--repeats 9] [--threads N]

The operators take turns, so that a change of the machine's load meets all of them; ratios are
medians of ratios within a turn. The floor of a product is the same product by PyTorch into a reused
buffer; the floor of the others is their bytes at the speed of a plain copy. The table is written to
benchmarks/results/.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from results_file import write_table
from torch import Tensor

from sparsteer.kernels import backward, dispatch, reference
from sparsteer.kernels.decode import decode, decode_mse
from sparsteer.kernels.encode import encode_topk
from sparsteer.kernels.optimizer import adam_step_, normalize_rows_
from sparsteer.kernels.top_afa import top_afa_select
from sparsteer.kernels.topk import topk_select


class Case(NamedTuple):
    """One operator: ours, the eager way, the bytes it must move (None: its floor is the product)."""

    ours: Callable[[], object]
    eager: Callable[[], object]
    least_bytes: int | None


def eager_top_afa(pre_BF: Tensor, norms_F: Tensor, target_B: Tensor) -> Tensor:
    """The published way: sort, cumulative sum, nearest prefix."""
    scaled_BF = (pre_BF.relu() * norms_F).sort(dim=-1, descending=True).values
    norm_BF = scaled_BF.square().cumsum(-1).sqrt()
    return (norm_BF - target_B[:, None]).abs().argmin(-1) + 1


def cases(B: int, D: int, F: int, k: int, device: str, dtype: torch.dtype) -> dict[str, Case]:
    """The operators at these sizes, on random inputs."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    x, W_enc, W_dec = random(B, D), random(F, D), normalize_rows_(random(F, D))
    b_enc, b_dec = random(F) * 0.01, random(D) * 0.01
    pre = reference.pre_activations(x, b_dec, W_enc, b_enc)
    codes = topk_select(pre, k)
    dense = codes.dense(F)
    norms = torch.ones(F, device=device, dtype=dtype)
    # A target that keeps about k latents of a row.
    target = codes.values.float().square().sum(-1).sqrt().to(dtype)
    gradient, first, second = random(F, D), torch.zeros(F, D), torch.zeros(F, D)
    first, second = first.to(device), second.to(device)
    size, slots = x.element_size(), B * k

    def adam() -> None:
        adam_step_(W_dec, gradient, first, second, step=10, lr=1e-3, unit_rows=True)

    def eager_adam() -> None:
        reference.adam_step(W_dec, gradient, first, second, 10, 1e-3, (0.9, 0.999), 1e-8, True)

    def eager_mse() -> Tensor:
        residual = dense @ W_dec + b_dec - x
        return (residual @ W_dec.T).gather(-1, codes.indices) + residual.square().mean()

    return {
        "encode_topk": Case(
            lambda: encode_topk(x, b_dec, W_enc, b_enc, k),
            lambda: torch.nn.functional.linear(x - b_dec, W_enc, b_enc).topk(k),
            None,
        ),
        "topk_select": Case(lambda: topk_select(pre, k), lambda: pre.topk(k), B * F * size),
        "top_afa_select": Case(
            lambda: top_afa_select(pre, norms, target),
            lambda: eager_top_afa(pre, norms, target),
            B * F * size,
        ),
        "decode": Case(
            lambda: decode(codes, W_dec, b_dec),
            lambda: dense @ W_dec + b_dec,
            (slots + B) * D * size,
        ),
        "decode_mse": Case(
            lambda: decode_mse(codes, W_dec, b_dec, x), eager_mse, (slots + 4 * B) * D * size
        ),
        "autoencoder_gradients": Case(
            lambda: backward.autoencoder_gradients(
                codes.indices, codes.values, codes.values, x, x, F
            ),
            lambda: (dense.T @ x, dense.T @ x, dense.sum(0)),
            2 * (slots + F) * D * size,
        ),
        "adam_unit_rows": Case(adam, eager_adam, F * D * (3 * size + 16)),
    }


def seconds(function: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times in milliseconds and ratios of every operator."""
    device, dtype = arguments.device, torch.float32 if arguments.device == "cpu" else torch.bfloat16
    B, D, F, k = arguments.rows, arguments.width, arguments.latents, arguments.k
    left, right = torch.randn(B, D).to(device, dtype), torch.randn(F, D).to(device, dtype)
    product_out = torch.empty(B, F, device=device, dtype=dtype)
    block = torch.empty(1 << 26, dtype=torch.uint8, device=device)
    copy = torch.empty_like(block)
    operators = cases(B, D, F, k, device, dtype)
    floors: dict[str, Callable[[], object]] = {
        "product": lambda: torch.mm(left, right.T, out=product_out),
        "copy": lambda: copy.copy_(block),
    }
    timed = floors | {name: case.ours for name, case in operators.items()}
    timed |= {f"eager {name}": case.eager for name, case in operators.items()}
    times: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(arguments.repeats + 1):
        for name, function in timed.items():
            elapsed = seconds(function, device)
            if turn:  # the first turn warms up
                times[name].append(elapsed)

    def ratio(above: list[float], below: list[float], factor: float = 1.0) -> float:
        return statistics.median(factor * a / b for a, b in zip(above, below, strict=True))

    rows: dict[str, dict[str, float]] = {}
    for name, case in operators.items():
        ours = times[name]
        if case.least_bytes is None:
            floor = ratio(times["product"], ours)
        else:  # a copy reads and writes its bytes
            floor = ratio(times["copy"], ours, case.least_bytes / (2 * block.numel()))
        rows[name] = {
            "median_ms": 1e3 * statistics.median(ours),
            "least_ms": 1e3 * min(ours),
            "fraction_of_floor": floor,
            "times_eager": ratio(times[f"eager {name}"], ours),
        }
    return {
        "rows": B,
        "width": D,
        "latents": F,
        "k": k,
        "dtype": str(dtype),
        "product_ms": 1e3 * statistics.median(times["product"]),
        "copy_gb_per_s": 2 * block.numel() / statistics.median(times["copy"]) / 1e9,
        "operators": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--latents", type=int, default=12288)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.no_grad():
        result = measured(arguments)
    operators = result.pop("operators")
    header = ["operator", "median ms", "least ms", "fraction of floor", "times eager"]
    sizes = ", ".join(f"{name} {value}" for name, value in list(result.items())[:5])
    notes = [
        f"Sizes: {sizes}. Triton {dispatch.triton_version()}.",
        f"Floors in the same run: the encoder's product {result['product_ms']:.1f} ms; a copy "
        f"{result['copy_gb_per_s']:.1f} GB/s (read and written). Small operators that stay in the "
        "cache can beat the copy; an encoder whose library beats PyTorch's product, the product.",
    ]
    rows = [
        [name, *(f"{figure:.2f}" for figure in row.values())] for name, row in operators.items()
    ]
    write_table(f"kernels-{arguments.device}", header, rows, notes)


if __name__ == "__main__":
    main()
