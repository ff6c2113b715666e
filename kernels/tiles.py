"""Tile shapes of the Triton kernels by architecture and size: a fixed table, never tuned in a run.

Tuning at run time would make two runs sum in different orders. Each row was chosen to compile
without register spills and within the chip's shared memory for 80 (A100), 86, 89 (RTX 30 and 40),
90 (H100), 100 (B200) and 120 (RTX 50); a test compiles them all. The environment
overrides entries of an operator, such as
`SPARSTEER_TILES="encode_topk:BLOCK_F=128,num_warps=8;decode:ROWS=4"`.
"""

import os
from functools import cache

from .numerics import next_power_of_2

Tile = dict[str, int]


def tile(operator: str, arch: int, *, D: int = 0, F: int = 0, K: int = 0) -> Tile:
    """The operator's tile at these sizes, with the environment's entries in place of the table's.

    Raises:
        ValueError: SPARSTEER_TILES names an unknown operator or entry, or is not of its form.
    """
    chosen = _table(operator, arch, D, F, K)
    for name, value in _overrides(os.environ.get("SPARSTEER_TILES", "")).get(operator, {}).items():
        if name not in chosen:
            raise ValueError(
                f"SPARSTEER_TILES sets {name} of {operator}, which has only {', '.join(chosen)}"
            )
        chosen[name] = value
    return chosen


@cache
def _overrides(text: str) -> dict[str, Tile]:
    overrides: dict[str, Tile] = {}
    for part in filter(None, text.split(";")):
        operator, _, entries = part.partition(":")
        if operator.strip() not in OPERATORS:
            raise ValueError(
                f"SPARSTEER_TILES names {operator!r}; the operators are {', '.join(OPERATORS)}"
            )
        try:
            pairs = dict(entry.split("=") for entry in entries.split(","))
            overrides[operator.strip()] = {name.strip(): int(n) for name, n in pairs.items()}
        except ValueError:
            raise ValueError(
                f"SPARSTEER_TILES holds {part!r}, but the form is OPERATOR:NAME=NUMBER,..."
            ) from None
    return overrides


OPERATORS = (
    "select_row",
    "select_group",
    "select_listed",
    "encode_topk",
    "decode",
    "backward",
    "adam",
)


def _table(operator: str, arch: int, D: int, F: int, K: int) -> Tile:
    match operator:
        case "select_row":  # one program holds a row of F keys in registers
            return {"EMIT": 2048, "num_warps": 4 if F <= 4096 else 8 if F <= 8192 else 16}
        case "select_group":  # F beyond registers: maxima of GROUP columns first
            emit = 1024 if arch == 90 else 2048  # Triton 3.9 spills 8 words of top-AFA's at 2048
            return {"GROUP": 16, "BLOCK": 4096, "EMIT": emit, "num_warps": 8}
        case "select_listed":  # keys of listed groups in registers: K, an eighth more for ties
            if K == 0:  # top-AFA's number is not known
                # Triton 3.6 spills with 8 warps on 86, 89, 90 and 100, 3.7 with 4 on 80 and 120.
                return {"HELD": 4096, "EMIT": 1024, "num_warps": 8 if arch in (80, 120) else 4}
            held = min(8192, next_power_of_2(K + K // 8))
            return {"HELD": held, "EMIT": 512, "num_warps": 4 if held <= 2048 else 8}
        case "encode_topk":  # the product's tile, and KEPT keys of every GROUP columns
            wide = arch in (90, 100)  # 227 KB of shared memory; 120 has 99, and 80 few registers
            return {
                "BLOCK_B": 128,
                "BLOCK_F": 256 if wide else 128,
                "BLOCK_D": 64,
                "GROUP": 32 if F < 65536 else 64,
                "KEPT": 4,
                "SUPER": 8,
                "num_warps": 8,
                "num_stages": 3,
            }
        case "decode":  # ROWS of W_dec in flight
            return {
                "BLOCK_D": min(4096, next_power_of_2(D)),
                "ROWS": 8 if D <= 1024 else 4 if D <= 2048 else 2,
                "num_warps": 2 if D <= 512 else 4 if D <= 2048 else 8,
            }
        case "backward":  # SLOTS rows in each of STAGES, CHUNK slots of a latent by one program
            return {
                "BLOCK_D": min(4096, next_power_of_2(D)),
                "SLOTS": 2 if D <= 2048 else 1,
                "CHUNK": 256,
                "STAGES": 3,
                # Triton 3.7 spills two words with 8 warps on 80, 86 and 89.
                "num_warps": 4 if D <= 1024 else 16 if arch < 90 and D > 2048 else 8,
            }
        case "adam":  # a row in registers
            return {"num_warps": 4 if D <= 1024 else 8 if D <= 4096 else 16}
        case _:
            raise ValueError(f"no tile table is known for {operator}")
