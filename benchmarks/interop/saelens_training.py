"""Train a top-k autoencoder with SAELens on given rows, and measure it; runs in its environment.

    python saelens_training.py SETTINGS.json

The settings name a safetensors file with `train` [N, D] and `held_out` [M, D], the folder to write,
and sizes. The last line printed is the FVU on the held-out rows, as JSON.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - its path type is an open generic
from torch import Tensor

_saes: Any = importlib.import_module("sae_lens.saes")
_config: Any = importlib.import_module("sae_lens.config")
_trainer: Any = importlib.import_module("sae_lens.training.sae_trainer")


def batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    """Random rows without end."""
    random = torch.Generator().manual_seed(0)
    while True:
        yield rows[torch.randint(len(rows), (size,), generator=random)]


def train(rows: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Train as SAELens does, with its scaling of activations, and save what it loads."""
    torch.default_generator.manual_seed(0)
    config = _saes.TopKTrainingSAEConfig(
        d_in=rows["train"].shape[1],
        d_sae=settings["n_latents"],
        k=settings["k"],
        normalize_activations="expected_average_only_in",
    )
    for name, value in settings["metadata"].items():
        setattr(config.metadata, name, value)
    sae = _saes.TopKTrainingSAE(config)
    trainer = _trainer.SAETrainer(
        cfg=_config.SAETrainerConfig(
            total_training_samples=settings["steps"] * settings["batch_size"],
            train_batch_size_samples=settings["batch_size"],
            lr=settings["lr"],
            lr_end=settings["lr"] / 10,
            n_batches_for_norm_estimate=20,
        ),
        sae=sae,
        data_provider=batches(rows["train"], settings["batch_size"]),
    )
    trainer.fit()
    sae.save_inference_model(settings["out"])


@torch.no_grad()
def fvu(folder: str, rows: Tensor) -> float:
    """Of the saved autoencoder, as SAELens loads it."""
    sae = _saes.SAE.load_from_disk(folder)
    residual = (rows - sae(rows)).double().square().sum()
    return float(residual / (rows.double() - rows.double().mean(0)).square().sum())


def main() -> None:
    """Train, save and measure."""
    settings = json.loads(Path(sys.argv[1]).read_text())
    rows = load_file(settings["rows"])
    if not (Path(settings["out"]) / "cfg.json").exists():
        train(rows, settings)
    print(json.dumps({"fvu": fvu(settings["out"], rows["held_out"])}))


if __name__ == "__main__":
    main()
