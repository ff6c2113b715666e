"""What bench_kernels.py feeds the operators: rows, and the weights of an autoencoder.

Real rows are activations of the default language model, with weights that have been trained for
some steps; made-up ones are sums of few directions, with random weights.
"""

from typing import NamedTuple

import torch
from benchmark_rows import Kind, benchmark_rows
from torch import Tensor
from training_cases import N_BATCHES, TrainingCase, starting_weights

from sparsteer.sae import SparseAutoencoder, TopKConfig

TRAINED_STEPS = 300


class Inputs(NamedTuple):
    """Rows in scaled units and weights."""

    x: Tensor
    """[B, D]"""
    b_dec: Tensor
    """[D]"""
    W_enc: Tensor
    """[F, D]"""
    b_enc: Tensor
    """[F]"""
    W_dec: Tensor
    """[F, D], rows of norm 1."""

    def to(self, device: str, dtype: torch.dtype) -> "Inputs":
        """Copies on the device, in the dtype."""
        return Inputs(*(tensor.to(device, dtype, copy=True) for tensor in self))

    def autoencoder(self, k: int) -> SparseAutoencoder:
        """A top-k autoencoder with copies of the weights, for the rows as they are."""
        F, D = self.W_enc.shape
        sae = SparseAutoencoder(TopKConfig(D, F, k))
        with torch.no_grad():
            for name in ("b_dec", "W_enc", "b_enc", "W_dec"):
                getattr(sae, name).copy_(getattr(self, name))
        return sae.to(self.x.device)


def kernel_inputs(kind: Kind, B: int, D: int, F: int, k: int) -> tuple[Inputs, str]:
    """Float32 inputs on the CPU, and what they are, in words.

    D is the width of made-up rows; real ones have that of the language model.
    """
    steps = TRAINED_STEPS if kind == "real" else 0
    rows = benchmark_rows(kind, N_BATCHES * B if steps else B, width=D)
    weights = starting_weights(TrainingCase(kind, F, k, steps), rows, B)
    words = f"weights after {steps} steps" if steps else "random weights"
    return Inputs(rows.scaled_ND[:B].clone(), **weights), f"{rows.source}, {words}"
