"""Where the marked entries of a row are, compiled: few among many, looked at eight at a time."""

import numpy as np
import numpy.typing as npt

from .compiled import compiled

Marks = npt.NDArray[np.bool_]


@compiled
def marks_for(n: int) -> Marks:
    """Marks of n entries and of a few beyond, none of them set."""
    return np.zeros(-(-n // 8) * 8, np.bool_)


@compiled
def list_marked(marks: Marks, indices: npt.NDArray[np.int64]) -> int:
    """The marked entries, ascending, into `indices` as far as they fit; gives their number."""
    eights = marks.view(np.uint64)
    n = 0
    for eight in range(len(eights)):
        if eights[eight] != 0:
            for entry in range(8 * eight, 8 * eight + 8):
                if marks[entry]:
                    if n < len(indices):
                        indices[n] = entry
                    n += 1
    return n
