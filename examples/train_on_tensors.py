"""Train a top-k autoencoder on rows that you already have, without a language model or a cache.

    python examples/train_on_tensors.py [--rows rows.safetensors] [--out my-sae] [--steps 300]

The file holds one tensor `activations` [N, D]; without one, rows are made from planted directions,
and the fraction of the directions that the dictionary found is printed at the end.
"""

import argparse

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - open path type
from torch import Tensor

from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training import Trainer, TrainerConfig

WIDTH, PLANTED = 32, 64


def planted_directions() -> Tensor:
    return torch.nn.functional.normalize(torch.randn(PLANTED, WIDTH), dim=-1)


def planted_rows(directions: Tensor, n_rows: int) -> Tensor:
    """Rows in which each direction takes part with probability 0.05."""
    active = torch.rand(n_rows, PLANTED) < 0.05
    return (active * (0.5 + torch.rand(n_rows, PLANTED))) @ directions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", help="safetensors file with a tensor `activations` [N, D]")
    parser.add_argument("--out", default="my-sae", help="folder for the autoencoder")
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.default_generator.manual_seed(0)
    directions = planted_directions()
    rows = (
        load_file(arguments.rows)["activations"]
        if arguments.rows
        else planted_rows(directions, 50_000)
    )
    width = rows.shape[1]

    sae = SparseAutoencoder(TopKConfig(d_model=width, n_latents=4 * width, k=min(4, width)))
    config = TrainerConfig(tokens=512 * arguments.steps, batch_size=512, lr=3e-3)
    trainer = Trainer(sae, config)
    trainer.initialize(rows[:10_000])
    for step in range(config.n_steps):
        metrics = trainer.step(rows[torch.randint(len(rows), (512,))])
        if step % 50 == 0:
            print(f"step {step}: FVU {float(metrics.fvu):.3f}, L0 {float(metrics.l0):.1f}")
    sae.save(arguments.out)

    if not arguments.rows:
        best = (directions @ sae.W_dec.detach().T).amax(dim=-1)
        found = float((best > 0.9).double().mean())
        print(f"found {found:.0%} of the planted directions (cosine above 0.9)")


if __name__ == "__main__":
    main()
