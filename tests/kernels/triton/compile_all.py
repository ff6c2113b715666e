"""Compile every Triton kernel without a GPU, as its launcher would run it, and inspect the code.

Run as a script with architectures as arguments (80 90 100 120): the launchers get fake tensors
of real sizes, and instead of running, each launch is compiled for the architecture. One JSON object
a launch on standard output; `test_kernels_on_triton.py` judges them, and
benchmarks/compile_table.py writes them down. `--only PART` leaves out kernels without it in their
name.
"""

# pyright: reportPrivateUsage=false
# The launchers are what is tested here.

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from sparsteer.kernels import (
    batch_topk_launches,
    dead_rows,
    decode_kernels,
    dispatch,
    firing,
    gather_dot,
    jaccard,
    jumprelu_kernels,
    optimizer,
    segment_sum,
    top_afa_kernels,
    topk,
)
from sparsteer.kernels.accelerators.fused_encoder import fused_topk
from sparsteer.kernels.accelerators.unverified_rows import encode_unverified_
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.step_numbers import step_numbers

# Triton is untyped.
triton: Any = import_module("triton")
compiler: Any = import_module("triton.compiler")
backends: Any = import_module("triton.backends.compiler")
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
KB = 1024
SHARED_LIMIT = {80: 163 * KB, 86: 99 * KB, 89: 99 * KB, 90: 227 * KB, 100: 227 * KB, 120: 99 * KB}
"""Of one program, in bytes: the CUDA programming guide's table of compute capabilities."""
TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.bool: "*i1",
    torch.uint8: "*u8",
}


def compiled(kernel: Any, arch: int, options: dict[str, int], arguments: dict[str, Any]) -> Any:
    """The kernel compiled as Triton's own launch would: 1 and multiples of 16 are special."""
    constexprs = {p.name for p in kernel.params if p.is_constexpr}
    signature, constants, attributes = {}, {}, {}
    for number, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if name in constexprs or value is None or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[number,] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes[number,] = [["tt.divisibility", 16]]
    return triton.compile(
        compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes),
        target=backends.GPUTarget("cuda", arch, 32),
        options={**options, "enable_fp_fusion": True},
    )


def report(kernel: Any, arch: int, options: dict[str, int], arguments: dict[str, Any]) -> None:
    code = compiled(kernel, arch, options, arguments)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(code.asm["cubin"])
        usage, assembly = (
            subprocess.run([str(TOOLS / tool), *flags, str(cubin)], capture_output=True, text=True)
            for tool, flags in [("cuobjdump", ["-res-usage"]), ("nvdisasm", ["-c"])]
        )
    registers = re.search(r"REG:(\d+)", usage.stdout)
    assert registers is not None, usage.stderr
    instructions = Counter(re.findall(INSTRUCTION, assembly.stdout, re.MULTILINE))
    tensor_core = {name: n for name, n in instructions.items() if re.match(TENSOR_CORE, name)}
    row = {
        "kernel": kernel.__name__.strip("_"),
        "variant": variant(kernel, arguments),
        "triton": triton.__version__,
        "arch": arch,
        "registers": int(registers[1]),
        "spills": instructions["STL"] + instructions["LDL"],
        "shared": code.metadata.shared,
        "shared_limit": SHARED_LIMIT[arch],
        "warps": options["num_warps"],
        "instructions": instructions.total() - instructions["NOP"],
        "tensor_core": tensor_core,
    }
    print(json.dumps(row), flush=True)


INSTRUCTION = r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)"
"""The name of a line of nvdisasm, behind its address and predicate."""
TENSOR_CORE = r"HGMMA|HMMA|UTC[A-Z]*MMA|TCGEN05"


def variant(kernel: Any, arguments: dict[str, Any]) -> str:
    """What tells the launches of a kernel apart: the dtypes of its tensors and what is compiled in.

    Tensors of the same dtype are counted once."""
    tensors = (value for value in arguments.values() if isinstance(value, Tensor))
    dtypes = dict.fromkeys(str(t.dtype).removeprefix("torch.") for t in tensors)
    fixed = [f"{p.name}={arguments[p.name]}" for p in kernel.params if p.is_constexpr]
    return " ".join([*dtypes, *fixed])


def launches(arch: int) -> dict[str, tuple[Any, dict[str, int], dict[str, Any]]]:
    """Every launch of every operator at real sizes, by kernel and what is compiled in."""
    found: dict[str, tuple[Any, dict[str, int], dict[str, Any]]] = {}

    def record(kernel: Any, grid: Any, *, num_warps: int, num_stages: int = 3, **args: Any) -> None:
        options = {"num_warps": num_warps, "num_stages": num_stages}
        fixed = {p.name: args[p.name] for p in kernel.params if p.is_constexpr}
        dtypes = [v.dtype for v in args.values() if isinstance(v, Tensor)]
        found[f"{kernel.__name__} {fixed} {dtypes} {options}"] = kernel, options, args

    def architecture(_: Tensor) -> int:
        return arch

    def sizes(tensor: Tensor) -> list[int]:
        """What a launcher reads to size its results; fake tensors hold no numbers."""
        return [300] * len(tensor)

    replacements: dict[str, Any] = {"launch": record, "architecture": architecture}
    for module in [m for name, m in sys.modules.items() if name.startswith("sparsteer.kernels")]:
        for name in replacements.keys() & vars(module).keys():
            setattr(module, name, replacements[name])
    with FakeTensorMode(), patch.object(FakeTensor, "tolist", sizes):
        for call in operators():
            call()
    return found


def operators() -> list[Callable[[], Any]]:
    """Calls of the launchers at the sizes that matter, with fake tensors."""

    def fake(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(*shape, dtype=dtype)

    def launch_products() -> None:
        for F, D, M in [(12288, 768, 32), (131072, 4096, 64)]:
            for dtype in (torch.bfloat16, torch.float32):
                indices = torch.empty(8192, M, dtype=torch.int64)
                values, rows = fake(8192, M, dtype=dtype), fake(8192, D, dtype=dtype)
                weights = fake(F, D, dtype=dtype)
                decode_kernels.launch_decode(indices, values, weights)
                for dots in (True, False):
                    decode_kernels.launch_decode_mse(
                        indices, values, weights, weights[0], rows, dots
                    )
                gather_dot._launch_gathered_dots(indices, rows, weights)
                for second in (None, (values, rows)):
                    segment_sum.launch_segment_sums(indices, values, rows, F, second)
                for further in (None, values):
                    dots = segment_sum.Dots(weights, fake(1, dtype=torch.float32), further)
                    segment_sum.launch_segment_sums(indices, dots, rows, F, (values, rows))

    def launch_adam() -> None:
        for D in (768, 4096, 8192):
            one = fake(1, dtype=torch.float32)
            moments = fake(12288, D, dtype=torch.float32)
            for numbers in (step_numbers(2, 1e-3, (0.9, 0.999)), one):
                optimizer._launch_adam(
                    moments, moments, moments, moments, fake(12288, D), one, one,
                    numbers, (0.9, 0.999), 1e-8, True,
                )  # fmt: skip

    def launch_dead_rows() -> None:
        for D, dtype in [(768, torch.bfloat16), (8192, torch.float32)]:
            weights, dead = fake(12288, D, dtype=dtype), torch.empty(1000, dtype=torch.int64)
            rows = dead_rows.DeadRows(weights, weights[:, 0].clone(), weights)
            found, places = dead_rows.launch_gather(rows, dead)
            dead_rows.launch_put_back(dead_rows.DeadRows(*(t.float() for t in found)), places)

    def launch_selections() -> None:
        for F, k, dtype in [
            (8192, 32, torch.bfloat16),
            (12288, 32, torch.bfloat16),
            (32768, 64, torch.float32),
            (32768, 2048, torch.float32),
            (131072, 64, torch.bfloat16),
        ]:
            topk._launch_topk(fake(8192, F, dtype=dtype), k)
        for width in (8192, 16384, 131072):
            norms, target = fake(width, dtype=torch.float32), fake(512, dtype=torch.float32)
            top_afa_kernels.launch_top_afa(fake(512, width), norms, target)
        for width, dtype in [(12288, torch.bfloat16), (131072, torch.float32)]:
            pre = fake(512, width, dtype=dtype)
            top = batch_topk_launches.LaunchedBatchTop(512 * 32, pre, None, 512)
            top.add(pre)
            top.codes(None)
            threshold = fake(width, dtype=torch.float32)
            jumprelu_kernels.launch_jumprelu(pre, threshold, threshold)

    def launch_encode() -> None:
        for F, D, k in [(12288, 768, 32), (24576, 2304, 64), (131072, 1000, 64)]:
            for dtype in (torch.bfloat16, torch.float32):
                weights = fake(F, D, dtype=dtype)
                rows = fake(4096, D, dtype=dtype)
                codes, verified = fused_topk(rows, weights, weights[:, 0], k)
                encode_unverified_(codes, verified, rows, weights, weights[:, 0], 2048)

    def launch_jaccard() -> None:
        offsets, indices = (torch.empty(n, dtype=torch.int64) for n in (1001, 64_000))
        values, prototype = fake(64_000, dtype=torch.float32), fake(12288, dtype=torch.float32)
        jaccard._launch_jaccard(offsets, indices, values, prototype)

    def launch_firing() -> None:
        for F, dtype in [(12288, torch.bfloat16), (131072, torch.float32)]:
            codes = Codes(torch.empty(8192, 32, dtype=torch.int64), fake(8192, 32, dtype=dtype))
            fired = firing._launch_fired(codes, F)
            since, loss = torch.empty(F, dtype=torch.int64), fake(1, dtype=torch.float32)[0]
            firing._launch_count(since, fired, loss, 8192, 10_000_000)

    return [
        launch_encode,
        launch_products,
        launch_adam,
        launch_dead_rows,
        launch_selections,
        launch_firing,
        launch_jaccard,
    ]


if __name__ == "__main__":
    if dispatch.INTERPRETED:
        sys.exit("unset TRITON_INTERPRET: interpreted kernels cannot be compiled")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architectures", type=int, nargs="+")
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    for arch in chosen.architectures:
        for kernel, options, arguments in launches(arch).values():
            if chosen.only in kernel.__name__:
                report(kernel, arch, options, arguments)
