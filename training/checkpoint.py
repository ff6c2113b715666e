"""Checkpoints: everything that the next step depends on, as safetensors and JSON, never pickled."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..sae.autoencoder import centers_that_may_lack
from ..sae.common.checksums import read_checked_json, record_of, recorded_files, write_checked_json
from ..sae.common.errors import InputError
from ..sae.common.files import atomic_folder, remove_folder
from ..sae.common.tensor_files import load_tensors, save_tensors
from .trainer import Trainer

_STATE_FILE = "trainer.safetensors"
_PROGRESS_FILE = "progress.json"
_NAME = re.compile(r"step-(\d+)", re.ASCII)
_REMEDY = "training goes on from an older one"


def write_checkpoint(
    checkpoints: Path, state: dict[str, Tensor], *, step: int, seconds: float, keep: int
) -> Path:
    """Write `step-N` into the folder of checkpoints, then remove all but the newest `keep`.

    Args:
        checkpoints: the folder; made if missing.
        state: the tensors of `trainer_state`, or copies of them.
        step: steps done.
        seconds: training time so far, carried on by a resumed run.
        keep: checkpoints left over, at least 1.
    """
    target = checkpoints / f"step-{step}"
    with atomic_folder(target) as folder:
        save_tensors(folder / _STATE_FILE, state)
        progress = {
            "steps_done": step,
            "seconds": seconds,
            "files": recorded_files(folder, [_STATE_FILE]),
        }
        write_checked_json(folder / _PROGRESS_FILE, progress)
    remove_older(checkpoints, step, keep=keep)
    return target


def remove_older(checkpoints: Path, step: int, *, keep: int) -> None:
    """Remove the checkpoints before the newest `keep` of those up to the step."""
    upto = [path for path in _by_age(checkpoints) if _step(path) <= step]
    for old in upto[keep:]:
        remove_folder(old)


def restore_newest(
    checkpoints: Path,
    trainer: Trainer,
    say: Callable[[str], None],
    *,
    moments: dict[str, Tensor] | None = None,
) -> float:
    """Put the trainer into the state of the newest whole checkpoint, if there is one.

    Whole means that every byte is as it was written, and that it is not of a later step than the
    last one of the training.

    Args:
        checkpoints: the folder; it may be missing.
        trainer: changed in place; untouched where there is no checkpoint.
        say: told about a broken checkpoint that is passed over.
        moments: takes the whole ones, in main memory, of those of which the trainer's optimizer has
            some rows alone, by the names that `Adam.state` gives.

    Returns:
        Seconds of training that lie before it, 0 without a checkpoint.

    Raises:
        InputError: a whole checkpoint belongs to a differently shaped autoencoder.
    """
    newest = _newest_whole(checkpoints, trainer.config.n_steps, say)
    if newest is None:
        return 0.0
    folder, seconds, tensors = newest
    _load_state(trainer, tensors, folder)
    if moments is not None:
        moments |= {name: tensors[f"adam.{name}"] for name in trainer.optimizer.partial()}
    trainer.steps_done = _step(folder)
    return seconds


def has_whole_checkpoint(checkpoints: Path, n_steps: int) -> bool:
    """Whether there is a whole checkpoint for a training of so many steps to go on from."""
    return _newest_whole(checkpoints, n_steps, lambda sentence: None) is not None


def _newest_whole(
    checkpoints: Path, n_steps: int, say: Callable[[str], None]
) -> tuple[Path, float, dict[str, Tensor]] | None:
    """The newest whole checkpoint: its folder, seconds of training before it, and its tensors."""
    for folder in _by_age(checkpoints):
        try:
            return folder, *_read(folder, _step(folder), n_steps)
        except (OSError, ValueError) as error:
            say(f"checkpoint {folder} is broken and passed over: {error}")
    return None


def _read(folder: Path, step: int, n_steps: int) -> tuple[float, dict[str, Tensor]]:
    """Seconds of training before a checkpoint of this step, and its tensors.

    Raises InputError unless it is as it was written.
    """
    path = folder / _PROGRESS_FILE
    progress = read_checked_json(path, "checkpoint's progress", remedy=_REMEDY)
    found: Any = progress.get("steps_done")
    seconds: Any = progress.get("seconds")
    if type(found) is not int or found != step:
        raise InputError(f"{path} is of step {found!r}, but its folder of {step}; {_REMEDY}")
    if step > n_steps:
        raise InputError(f"it is of step {step}, but the training has {n_steps}; {_REMEDY}")
    if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
        raise InputError(f"{path} says {seconds!r} for its seconds; {_REMEDY}")
    record = record_of(progress, _STATE_FILE)
    return float(seconds), load_tensors(folder / _STATE_FILE, _REMEDY, record=record)


def _by_age(checkpoints: Path) -> list[Path]:
    """Checkpoint folders, the newest first."""
    if not checkpoints.is_dir():
        return []
    found = (path for path in checkpoints.iterdir() if _NAME.fullmatch(path.name))
    return sorted(found, key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def trainer_state(trainer: Trainer) -> dict[str, Tensor]:
    """The very tensors that the next step depends on, beside the number of steps done."""
    state = {f"sae.{name}": tensor for name, tensor in trainer.sae.state_dict().items()}
    state |= {f"adam.{name}": moment for name, moment in trainer.optimizer.state().items()}
    if trainer.averages is not None:
        state |= {f"average.{name}": mean for name, mean in trainer.averages.tensors.items()}
    if trainer.whitening is not None:
        state["whitening.matrix"] = trainer.whitening.matrix
        state["whitening.inverse"] = trainer.whitening.inverse
    state["tokens_since_fired"] = trainer.tokens_since_fired
    if trainer.code_widths is not None:
        state["code_widths"] = trainer.code_widths.tensor
    return state


def _load_state(trainer: Trainer, tensors: dict[str, Tensor], folder: Path) -> None:
    own = trainer.sae.state_dict()
    for name in centers_that_may_lack(trainer.sae.config):
        tensors.setdefault(f"sae.{name}", torch.zeros_like(own[name]))
    # Training on a CPU, from which this one may go on, has none.
    if trainer.code_widths is not None:
        tensors.setdefault("code_widths", torch.zeros_like(trainer.code_widths.tensor))
    for name, tensor in own.items():
        saved = tensors.get(f"sae.{name}")
        if saved is None or saved.shape != tensor.shape:
            raise InputError(
                f"checkpoint {folder} holds another autoencoder ({name} differs); "
                "give another --out or remove the folder"
            )
    if missing := [name for name in trainer_state(trainer) if name not in tensors]:
        raise InputError(
            f"checkpoint {folder} lacks {missing[0]}, which training with these settings needs; "
            "give another --out or remove the folder"
        )
    trainer.sae.load_state_dict({name: tensors[f"sae.{name}"] for name in own})
    prefix = "adam."
    moments = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    trainer.optimizer.load_state(moments)
    if trainer.averages is not None:
        for name, mean in trainer.averages.tensors.items():
            mean.copy_(tensors[f"average.{name}"])
    if trainer.whitening is not None:
        trainer.whitening.matrix.copy_(tensors["whitening.matrix"])
        trainer.whitening.inverse.copy_(tensors["whitening.inverse"])
    trainer.tokens_since_fired.copy_(tensors["tokens_since_fired"])
    if trainer.code_widths is not None:
        trainer.code_widths.tensor.copy_(tensors["code_widths"])
