"""The lines of a part as a dated table."""

from pathlib import Path
from typing import Any

from results_file import write_table

from .rows import shown

COLUMNS: dict[str, tuple[str, ...]] = {
    "correctness": (),
    "kernels": ("ms", "floor_ms", "of_floor", "tflops", "times_as_long", "path"),
    "steps": ("ms", "host_ms", "busy_ms", "launches", "peak_gb", "rows_per_s"),
    "peers": ("ms", "times_ours", "peak_gb"),
    "data": ("rows_per_s", "first_rows_per_s", "gb_per_s", "forward_tokens_per_s"),
    "tests": ("passed", "failed", "skipped"),
}
"""The parts, and which figures have a column; the others stand together in the last but one."""

NOTES: dict[str, str] = {
    "correctness": "Errors are relative, against float64 on a part of the rows. `same_bits`: "
    "repeated calls give the same bits; `other_stream`: so does a call on another stream.",
    "kernels": "Medians by events, inputs out of the L2. `floor_ms`: the bytes that must move at "
    "the speed of a copy, or the product at the speed of PyTorch's library, both of this run. "
    "`times_as_long`: other ways to the same result, as multiples of the kernel's time.",
    "steps": "`ms`: of a step among steps that follow each other. `host_ms`: until a step returns "
    "where the GPU has nothing else to do. `busy_ms`: sum of the kernels' own times, of "
    "`launches` kernels.",
    "peers": "`ms`: GPU time of a step by events. `times_ours`: as a multiple of sparsteer's at "
    "the same sizes and precision; the others' bfloat16 is PyTorch's autocast.",
    "data": "`first_rows_per_s`: of an epoch with checksums verified. Caching as a fraction of the "
    "model's whole forward pass, which caching may end early.",
    "tests": "The project's tests that need a GPU.",
}


def write_part(name: str, rows: list[dict[str, Any]], folder: Path, tiny: bool) -> Path:
    """Write the table of one part; one of tiny sizes has a name of its own."""
    columns = COLUMNS[name]
    header = ["case", *columns, "figures", "status"]
    cells: list[list[str]] = []
    long: list[str] = []
    for row in rows:
        figures: dict[str, Any] = dict(row["figures"])
        if longest := figures.pop("longest", None):
            long.append(f"- {row['case']}: {longest}")
        known = [shown(figures.pop(column, "")) for column in columns]
        others = ", ".join(f"{key} {shown(value)}" for key, value in figures.items())
        status = f"{row['status']}: {row['why']}" if row["why"] else row["status"]
        cells.append([row["case"], *known, others, shown(status)])
    notes = [NOTES[name]]
    if tiny:
        notes.append("Tiny sizes in Triton's interpreter: no figure here says anything of a GPU.")
    if long:
        notes += ["", "Longest kernels, ms:", "", *long]
    return write_table(f"{'tiny-' if tiny else ''}gpu-{name}", header, cells, notes, folder)
