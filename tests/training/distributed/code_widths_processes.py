"""What each of two processes does for test_code_widths.py, with kernels in Triton's interpreter.

    TRITON_INTERPRET=1 torchrun --nproc-per-node 2 -m
        tests.training.distributed.code_widths_processes OUT

Writes OUT/rank-R.json: for each activation what came of it.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from sparsteer.sae import BatchTopKConfig, SAEConfig, SparseAutoencoder, TopAFAConfig
from sparsteer.sae.common.files import write_json
from sparsteer.training.checkpoint import trainer_state
from sparsteer.training.distributed.collectives import Distributed
from sparsteer.training.distributed.joining import init_distributed
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

D, F, B = 8, 24, 6
CONFIGS: dict[str, SAEConfig] = {
    "batch_topk": BatchTopKConfig(D, F, 3),
    "top_afa": TopAFAConfig(D, F),
}


def main(out: Path) -> None:
    with init_distributed() as dist:
        results = {name: compared(config, dist) for name, config in CONFIGS.items()}
        write_json(out / f"rank-{dist.rank}.json", results)


def compared(config: SAEConfig, dist: Distributed) -> dict[str, Any]:
    """Three steps on the same rows, of a trainer that takes widths for granted in the second, too
    small for one rank, and of one that asks."""
    torch.manual_seed(1)  # pyright: ignore[reportUnknownMemberType] - untyped
    sae = SparseAutoencoder(config)
    rows = torch.randn(2 * B, D)
    x = rows[dist.local_rows(len(rows))]
    states: list[dict[str, torch.Tensor]] = []
    found: dict[str, Any] = {}
    for measured in (False, True):
        own = SparseAutoencoder(config)
        own.load_state_dict(sae.state_dict())
        settings: Any = {"precision": "float32", "lr": 1e-4, "ema_decay": 0.5}
        trainer = Trainer(own, TrainerConfig(tokens=200 * B, batch_size=2 * B, **settings), dist)
        widths = trainer.code_widths
        assert widths is not None
        trainer.step(x, measured=measured)
        trainer.synchronize()
        needed = dist.all_gather_object(int(trainer.loss(own.scaled(x)).codes.values.shape[1]))
        widths.tensor.fill_(min(needed))
        trainer.step(x, measured=measured)
        trainer.synchronize()
        found["widths after"] = int(widths.tensor)
        trainer.step(x, measured=measured)
        trainer.synchronize()
        found |= {"needed": needed, "steps": trainer.steps_done}
        states.append({name: tensor.clone() for name, tensor in trainer_state(trainer).items()})
    presumed, asked = states
    found["same"] = all(torch.equal(presumed[name], asked[name]) for name in asked)
    found["sums"] = {name: float(tensor.double().sum()) for name, tensor in asked.items()}
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
