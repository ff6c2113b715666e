"""Whole training steps for bench_kernels.py, and whether they train as a plain dense loop does."""

from collections.abc import Callable

import torch
from bench_training_step import planted_rows
from dense_trainer import DenseTrainer, fvu
from gpu.sizes import trainer_precision
from kernel_cases import Call, Case
from kernel_inputs import Inputs
from plain_sparse import PlainSparseTrainer

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training.initialize import initialize_from_rows
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig


def training_steps(inputs: Inputs, k: int, precision: str) -> dict[str, Callable[[], Case]]:
    """Whole updates of float32 weights, without dead latents and with a tenth of them dead, each
    made when it is asked for; the plain loops beside them are in float32, as they are written."""
    x, F = inputs.x, len(inputs.W_enc)
    B = len(x)

    def step(dead: int) -> Call:
        sae = inputs.autoencoder(k)
        asked = trainer_precision(precision, x.device.type)
        config = TrainerConfig(tokens=100_000_000, batch_size=B, precision=asked)
        trainer = Trainer(sae, config)

        def run() -> None:
            trainer.tokens_since_fired[:dead] = trainer.dead_after_tokens
            trainer.step(x)

        return run

    def alone() -> Case:
        dense = DenseTrainer(inputs.autoencoder(k), lr=1e-4)
        weights = inputs.b_dec, inputs.W_enc, inputs.b_enc, inputs.W_dec
        plain = PlainSparseTrainer(*weights, k=k, lr=1e-4)
        others: dict[str, Call] = {
            "dense": lambda: dense.step(x),
            "plain sparse": lambda: plain.step(x),
        }
        return Case(step(0), others, "product")

    return {
        "training step": alone,
        "training step, AuxK, a tenth dead": lambda: Case(step(F // 10), {}, "product"),
    }


def quality(B: int, D: int, F: int, k: int, steps: int, device: str) -> list[str]:
    """Train beside the dense loop with AuxK off and on; a note on each.

    Raises:
        SystemExit: the fractions of variance unexplained differ by more than 1 %, a decoder row is
            not of norm 1, or the counts of dead latents differ by more than 1 % of the latents.
    """
    notes: list[str] = []
    for auxk in (0.0, 1 / 32):
        torch.default_generator.manual_seed(1)
        rows = planted_rows(B * 8, D, device)
        sae = SparseAutoencoder(TopKConfig(D, F, k)).to(device)
        initialize_from_rows(sae, rows)
        sae.b_enc.data[: F // 10] = -1  # silent from the start, so that AuxK has work
        config = TrainerConfig(
            tokens=steps * B, batch_size=B, lr=1e-3, auxk_coefficient=auxk, dead_after_tokens=4 * B
        )
        trainer = Trainer(sae, config)
        dense = DenseTrainer(sae, lr=1e-3, auxk=auxk, k_aux=trainer.k_aux, dead_after=4 * B)
        for number in range(steps):
            batch = rows[number % 8 * B : (number % 8 + 1) * B]
            trainer.step(batch)
            dense.step(sae.scaled(batch), trainer.learning_rate(number))
        found = fvu(sae.scaled(rows), sae.b_dec, sae.W_enc, sae.b_enc, sae.W_dec, k)
        wanted = fvu(sae.scaled(rows), *dense.ordered(), k)
        off_unit = float((row_norms(sae.W_dec.detach()) - 1).abs().max())
        dead = len(trainer.dead_latents()), int((dense.since_fired >= 4 * B).sum())
        note = (
            f"After {steps} steps of {B} rows with AuxK {'on' if auxk else 'off'}: fraction of "
            f"variance unexplained {found:.5f}, of the dense loop {wanted:.5f}; dead latents "
            f"{dead[0]} and {dead[1]}; decoder norms within {off_unit:.0e} of 1."
        )
        if abs(found / wanted - 1) > 0.01 or off_unit > 1e-5 or abs(dead[0] - dead[1]) > F / 100:
            raise SystemExit(f"the training step is wrong. {note}")
        notes.append(note)
    return notes
