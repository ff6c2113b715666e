"""Predict the time of a top-k training step on a GPU from the bytes and operations of its kernels.

    python benchmarks/roofline.py [--json] [--gpu h100] [--write]

A step in bfloat16 runs on tensors that have shapes and no values (`step_counting.py`), at
(B, D, F, k) = S (8192, 768, 12288, 32) and L (8192, 4096, 131072, 64). Each kernel's bytes and
operations are taken from the tensors that it is given; rows that it gathers count each time, at the
speed of the L2 cache where their matrix fits into it. The floor divides by the published peaks, the
prediction by the part of them that such kernels usually reach (`gpu/peaks.py`), and gives no kernel
less than two microseconds. Nothing is measured. --write puts the table into benchmarks/results/.
"""

import argparse
import json
import math
from typing import Any, NamedTuple

from gpu.peaks import (
    FUSED_OF_LIBRARY,
    GATHER_REACHED,
    HOST_US_A_LAUNCH,
    MEMORY_REACHED,
    NARROW_PRODUCT_REACHED,
    PEAKS,
    PRODUCT_REACHED,
    SHORTEST_KERNEL_US,
    Peaks,
)
from gpu.sizes import LARGE, SMALL, Sizes
from results_file import write_table
from step_counting import Count, Operand, Operation
from step_counts import count_step

from sparsteer.kernels.tiles import tile

SIZES = {"S": SMALL, "L": LARGE}
KIND = "topk, bfloat16, none dead"
PARTS = {
    "encode: product and selection": (
        *("encode_keys_kernel", "select_keys_kernel", "addmm", "topk_row_kernel"),
        *("group_maxima_kernel", "topk_list_kernel", "topk_listed_kernel"),
        *("list_kernel", "products_kernel", "select_kernel"),
    ),
    "decode and loss": ("decode_mse_kernel", "decode_kernel", "gathered_dots_kernel"),
    "gradients of both matrices": ("segments_kernel", "partial_sums_kernel"),
    "norm of the gradients": ("linalg_vector_norm", "norm_kernel"),
    "Adam": ("adam_kernel",),
}
"""Parts of the step, and the operators and kernels that make them; the rest is told by size."""
_BY_SIZE = ("other passes over [F, D]", "other passes over [B, D]", "small operations")
COLUMNS_OF_A_GROUP = tile("select_group", 90)["GROUP"]
UNVERIFIED = 0.002
"""Part of the rows that the fused encoder is taken to leave unverified."""
_FAR_FEWER_THAN_A_MATRIX = ("partial_ptr", "partial2_ptr", "partial_sums_ptr")
"""Of latents so frequent that several programs sum them; how much is used depends on the data."""


class Work(NamedTuple):
    """What a kernel must do."""

    streamed: float
    """Bytes read and written once."""
    gathered: dict[int, float]
    """Bytes of rows that are gathered, by the size of the matrix that they are of."""
    flops: float


class Predicted(NamedTuple):
    """Of a part of the step, or of all of it."""

    launches: int
    gigabytes: float
    """Those gathered included."""
    tflop: float
    floor_us: float
    gpu_us: float


def work_of(operation: Operation) -> Work:
    """Bytes and operations of one kernel, from its operands."""
    operands = operation.operands
    match operation.name:
        case "mm" | "addmm" | "addmm_":
            factors = [tensor for tensor in operands.values() if len(tensor.shape) == 2]
            a, b = factors[operation.name == "addmm_" :][:2]
            return Work(operation.bytes, {}, 2.0 * math.prod(a.shape) * b.shape[1])
        case "encode_keys_kernel":
            x, weights = operands["x_ptr"], operands["weights_ptr"]
            return Work(operation.bytes, {}, 2.0 * math.prod(x.shape) * weights.shape[0])
        case "decode_kernel" | "decode_mse_kernel" | "gathered_dots_kernel":
            # A second time for the dot products with the residual, where this kernel takes them.
            dots = operation.name == "decode_mse_kernel" and operation.flags.get("DOTS", True)
            n_slots = math.prod(operands["indices_ptr"].shape)
            return _gathering(operation, {"weights_ptr": n_slots * (2 if dots else 1)})
        case "segments_kernel":
            slots = operands.get("slots_ptr", operands.get("numbers_ptr"))
            assert slots is not None
            paired = ["rows2_ptr"] if operation.flags["PAIRED"] else []
            return _gathering(
                operation, dict.fromkeys(["rows_ptr", *paired], math.prod(slots.shape))
            )
        case "topk_listed_kernel":  # reads the k groups of columns that may hold one of the largest
            pre, kept = operands["pre_ptr"], operands["indices_ptr"]
            columns = math.prod(kept.shape) * COLUMNS_OF_A_GROUP
            listed = columns * pre.bytes / math.prod(pre.shape)
            return Work(operation.bytes - pre.bytes + listed, {}, 0.0)
        case "adam_kernel":  # what is read and written in place counts twice
            changed = [operands[f"{name}_ptr"] for name in ("weights", "first", "second")]
            return Work(operation.bytes + sum(each.bytes for each in changed), {}, 0.0)
        case "products_kernel":  # of the rows that the fused encoder has not verified, a few
            one_row = operands["pre_ptr"].bytes / operands["pre_ptr"].shape[0]
            return Work(operands["weights_ptr"].bytes + one_row * _unverified(operands), {}, 0.0)
        case "select_kernel":
            one_row = operands["pre_ptr"].bytes / operands["pre_ptr"].shape[0]
            return Work(one_row * _unverified(operands), {}, 0.0)
        case "order_kernel":  # gathers the slots of latents that have many, and no others
            return Work(operation.bytes - operands["gathered_ptr"].bytes, {}, 0.0)
        case "partial_sums_kernel":  # reads no more where no latent is split
            return Work(operands["items_ptr"].bytes, {}, 0.0)
        case _:
            return Work(operation.bytes, {}, 0.0)


def _unverified(operands: dict[str, Operand]) -> int:
    return math.ceil(UNVERIFIED * operands["rows_ptr"].shape[0])


def _gathering(operation: Operation, n_rows: dict[str, int]) -> Work:
    """Work of a kernel that gathers so many rows of some of its operands."""
    others = {
        tensor.identity: tensor
        for name, tensor in operation.operands.items()
        if name not in n_rows and name not in _FAR_FEWER_THAN_A_MATRIX
    }
    gathered: dict[int, float] = {}
    for name, n in n_rows.items():
        matrix = operation.operands[name]
        of_rows = n * matrix.bytes / matrix.shape[0]
        gathered[matrix.bytes] = gathered.get(matrix.bytes, 0) + of_rows
    tables = {operation.operands[name].identity for name in n_rows}
    streamed = sum(tensor.bytes for key, tensor in others.items() if key not in tables)
    return Work(streamed, gathered, 0.0)


def times_us(operation: Operation, peaks: Peaks) -> tuple[float, float]:
    """Microseconds of a kernel at the peaks, and predicted."""
    work = work_of(operation)
    memory, l2 = peaks.memory_tb_per_s * 1e6, peaks.l2_tb_per_s * 1e6  # bytes a microsecond
    in_l2 = sum(n for size, n in work.gathered.items() if size < 0.8e6 * peaks.l2_mb)
    beyond = sum(work.gathered.values()) - in_l2
    product = work.flops / peaks.bfloat16_tflops / 1e6
    floor = max(product, (work.streamed + beyond) / memory + in_l2 / l2)
    bytes_us = work.streamed / memory / MEMORY_REACHED
    bytes_us += (beyond / memory + in_l2 / l2) / GATHER_REACHED
    at_least = SHORTEST_KERNEL_US * operation.launches
    return floor, max(product / product_reached(operation), bytes_us, at_least)


def product_reached(operation: Operation) -> float:
    """The part of the tensor cores' peak that a product reaches."""
    inner = [each.shape[-1] for each in operation.operands.values() if len(each.shape) == 2]
    reached = PRODUCT_REACHED if min(inner, default=0) >= 2048 else NARROW_PRODUCT_REACHED
    return reached * (FUSED_OF_LIBRARY if operation.name == "encode_keys_kernel" else 1)


def part_of(operation: Operation, sizes: Sizes) -> str:
    """The part of the step that a kernel belongs to."""
    for part, names in PARTS.items():
        if operation.name in names:
            return part
    largest = max((math.prod(each.shape) for each in operation.operands.values()), default=0)
    limits = sizes.weights, sizes.rows * sizes.width
    return next(
        (name for name, limit in zip(_BY_SIZE, limits, strict=False) if largest >= limit),
        _BY_SIZE[-1],
    )


def predict(count: Count, sizes: Sizes, peaks: Peaks) -> dict[str, Predicted]:
    """Each part of the step, and all of it under `total`."""
    parts: dict[str, list[Operation]] = {name: [] for name in [*PARTS, *_BY_SIZE]}
    for operation in count.operations:
        parts[part_of(operation, sizes)].append(operation)
    found: dict[str, Predicted] = {}
    for name, operations in parts.items():
        works = [work_of(operation) for operation in operations]
        times = [times_us(operation, peaks) for operation in operations]
        n_bytes = sum(work.streamed + sum(work.gathered.values()) for work in works)
        found[name] = Predicted(
            sum(operation.launches for operation in operations),
            n_bytes / 1e9,
            sum(work.flops for work in works) / 1e12,
            sum(floor for floor, _ in times),
            sum(gpu for _, gpu in times),
        )
    launches, *others = zip(*found.values(), strict=True)
    found["total"] = Predicted(sum(launches), *map(math.fsum, others))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--gpu", choices=PEAKS, default="h100")
    parser.add_argument("--write", action="store_true", help="into benchmarks/results/")
    options = parser.parse_args()
    peaks = PEAKS[options.gpu]
    predicted: dict[str, dict[str, Predicted]] = {}
    for name, sizes in SIZES.items():
        predicted[name] = predict(count_step(KIND, **sizes._asdict()), sizes, peaks)
    if options.json:
        print(json.dumps(as_json(predicted, options.gpu)))
        return
    header, rows, notes = table(predicted, options.gpu)
    if options.write:
        write_table("roofline", header, rows, notes)
        return
    for row in [header, *rows]:
        print(" | ".join(row))
    print("\n".join(notes))


def host_us(total: Predicted) -> float:
    """Microseconds in which the host launches a step's kernels."""
    return HOST_US_A_LAUNCH * total.launches


def as_json(predicted: dict[str, dict[str, Predicted]], gpu: str) -> dict[str, Any]:
    """For each size the parts, the total, and the predicted step, which GPU or host decides."""
    sizes: dict[str, Any] = {}
    for name, parts in predicted.items():
        total = parts["total"]
        step = max(total.gpu_us, host_us(total))
        sizes[name] = {
            "sizes": SIZES[name]._asdict(),
            "parts": {part: figures._asdict() for part, figures in parts.items()},
            "host_us": host_us(total),
            "step_us": step,
        }
    return {"predicted": True, "gpu": gpu, "step": KIND, "sizes": sizes}


def table(
    predicted: dict[str, dict[str, Predicted]], gpu: str
) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows and notes of the table."""
    columns = ("launches", "GB", "TFLOP", "floor, us", "predicted, us")
    header = ["part", *(f"{name}: {column}" for name in predicted for column in columns)]
    rows: list[list[str]] = []
    for part in next(iter(predicted.values())):
        row = [part]
        for parts in predicted.values():
            each = parts[part]
            row += [f"{each.launches}", f"{each.gigabytes:.2f}", f"{each.tflop:.2f}"]
            row += [f"{each.floor_us:,.0f}", f"{each.gpu_us:,.0f}"]
        rows.append(row)
    hosts = [
        f"{name} {SIZES[name]}: {parts['total'].gpu_us:,.0f} us of the GPU, and "
        f"{host_us(parts['total']):,.0f} us of the host beside it"
        for name, parts in predicted.items()
    ]
    notes = [
        f"Predicted for one {gpu.upper()}, not measured: a step of {KIND}. {'; '.join(hosts)} at "
        f"{HOST_US_A_LAUNCH:.0f} us a launch.",
        "Floor: bytes and operations at the published peaks. Predicted: at "
        f"{MEMORY_REACHED:.0%} of the memory's, {PRODUCT_REACHED:.0%} of the tensor cores' "
        f"({NARROW_PRODUCT_REACHED:.0%} at widths below 2,048, the fused encoder "
        f"{FUSED_OF_LIBRARY:.0%} of that), and at least {SHORTEST_KERNEL_US:.0f} us a kernel, "
        "which are assumptions.",
    ]
    return header, rows, notes


if __name__ == "__main__":
    main()
