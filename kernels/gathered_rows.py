"""A row and the rows of weights that its slots name, on a CPU, compiled: sums and dot products.

Four rows of weights are read at a time: the processor then waits for four reads together and not
for one after the other.
"""

import numpy as np
import numpy.typing as npt

from .compiled import compiled

Matrix = Vector = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]


@compiled
def gathered_row_dots(indices_M: Indices, row_D: Vector, weights_FD: Matrix, out_M: Vector) -> None:
    """out[m] = row . weights[indices[m]]."""
    last = len(indices_M) - 1
    for m in range(0, last + 1, 4):
        m_two, m_three, m_four = min(m + 1, last), min(m + 2, last), min(m + 3, last)
        one_D, two_D = weights_FD[indices_M[m]], weights_FD[indices_M[m_two]]
        three_D, four_D = weights_FD[indices_M[m_three]], weights_FD[indices_M[m_four]]
        one = two = three = four = row_D.dtype.type(0)
        for d in range(len(row_D)):
            x = row_D[d]
            one += x * one_D[d]
            two += x * two_D[d]
            three += x * three_D[d]
            four += x * four_D[d]
        out_M[m], out_M[m_two], out_M[m_three], out_M[m_four] = one, two, three, four


@compiled
def add_gathered_rows(
    indices_M: Indices, values_M: Vector, weights_FD: Matrix, out_D: Vector
) -> None:
    """out += sum over m of values[m] * weights[indices[m]]."""
    last = len(indices_M) - 1
    nothing = out_D.dtype.type(0)
    for m in range(0, last + 1, 4):
        m_two, m_three, m_four = min(m + 1, last), min(m + 2, last), min(m + 3, last)
        one_D, two_D = weights_FD[indices_M[m]], weights_FD[indices_M[m_two]]
        three_D, four_D = weights_FD[indices_M[m_three]], weights_FD[indices_M[m_four]]
        one = values_M[m]
        two = values_M[m_two] if m + 1 <= last else nothing
        three = values_M[m_three] if m + 2 <= last else nothing
        four = values_M[m_four] if m + 3 <= last else nothing
        for d in range(len(out_D)):
            out_D[d] += (one * one_D[d] + two * two_D[d]) + (three * three_D[d] + four * four_D[d])


@compiled
def compare_rows(
    start: int,
    stop: int,
    indices_BM: Indices,
    values_BM: Matrix,
    weights_FD: Matrix,
    bias_D: Vector,
    x_BD: Matrix,
    scale: float,
    every_slot: bool,  # or only those whose value is not 0
    x_hat_BD: Matrix,  # (out)
    residual_BD: Matrix,  # (out) scale * (x_hat - x)
    dots_BM: Matrix,  # (out) residual . weights[indices]
    squares_B: npt.NDArray[np.float64],  # (out) of x_hat - x
) -> None:
    """Reconstructions, their errors and the dot products of these, while the weights' rows are in
    the cache."""
    used_M = np.empty(indices_BM.shape[1], np.int64)
    values_M = np.empty(indices_BM.shape[1], values_BM.dtype)
    indices_M = np.empty(indices_BM.shape[1], np.int64)
    found_M = np.empty(indices_BM.shape[1], values_BM.dtype)
    for b in range(start, stop):
        n = 0
        for m in range(indices_BM.shape[1]):
            if every_slot or values_BM[b, m] != 0:
                used_M[n], indices_M[n], values_M[n] = m, indices_BM[b, m], values_BM[b, m]
                n += 1
        x_hat_BD[b] = bias_D
        add_gathered_rows(indices_M[:n], values_M[:n], weights_FD, x_hat_BD[b])
        squares_B[b] = _residual(x_hat_BD[b], x_BD[b], scale, residual_BD[b])
        gathered_row_dots(indices_M[:n], residual_BD[b], weights_FD, found_M[:n])
        dots_BM[b] = 0
        for slot in range(n):
            dots_BM[b, used_M[slot]] = found_M[slot]


@compiled
def _residual(x_hat_D: Vector, x_D: Vector, scale: float, residual_D: Vector) -> np.floating:
    squares = x_D.dtype.type(0)
    factor = x_D.dtype.type(scale)
    for d in range(len(x_D)):
        error = x_hat_D[d] - x_D[d]
        residual_D[d] = error * factor
        squares += error * error
    return squares
