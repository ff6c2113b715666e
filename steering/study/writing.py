"""What the model writes under each setting of a study, a line a continuation, in a file a setting.

    {"prompt": 3, "number": 7, "text": " and ...", "tokens": [305, ...], "finish": "length"}

Prompts are continued in batches that the settings decide, each batch once for each number, so that
every line is the same whenever it is written. While a file is written it is called NAME.part.jsonl;
after an interruption, whatever stands in it in whole batches stays.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ..config import Sampling
from ..generation import generate
from ..interventions.intervention import Intervention
from ..texts import prompt_tokens
from .written import Written

FOLDER = "continuations"

Progress = Callable[[int, int], None]
"""Told how many continuations there are, and how many there will be."""


def write_continuations(
    model: LanguageModel,
    prompts: Sequence[str],
    sampling: Sampling,
    n: int,
    path: Path,
    *,
    intervention: Intervention | None = None,
    sae: SparseAutoencoder | None = None,
    prefix: str = "",
    progress: Progress = lambda done, total: None,
) -> Written:
    """Continue each prompt n times, or read what was written before.

    The i-th continuation of a prompt draws its random numbers from seed + i, as in
    `evaluation.continuations`.

    Args:
        model: the language model.
        prompts: beginnings of texts.
        sampling: how tokens are chosen; its batch_size is that of the prompts, and its
            max_new_tokens must be given.
        n: continuations of each.
        path: the file, NAME.jsonl.
        intervention: how to steer; None steers nothing.
        sae: the autoencoder of its features.
        prefix: a text before each prompt.
        progress: see `Progress`.

    Raises:
        InputError: a file is there that these settings did not write, or a prompt does not fit.
        TooStrong: the steered model's logits are no numbers.
    """
    batches = [
        range(start, min(start + sampling.batch_size, len(prompts)))
        for start in range(0, len(prompts), sampling.batch_size)
    ]
    units = [(batch, number) for batch in batches for number in range(n)]
    if path.exists():
        rows = _read(path, units)
    else:
        rows = _written(model, prompts, sampling, units, path, intervention, sae, prefix, progress)
    return _gathered(model, prompts, n, rows)


def _written(
    model: LanguageModel,
    prompts: Sequence[str],
    sampling: Sampling,
    units: Sequence[tuple[range, int]],
    path: Path,
    intervention: Intervention | None,
    sae: SparseAutoencoder | None,
    prefix: str,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Write the file, from where it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part.jsonl")
    rows, n_units, size = _whole_units(part, units)
    total = sum(len(batch) for batch, _ in units)
    with part.open("ab") as file:
        file.truncate(size)
        for batch, number in units[n_units:]:
            own = dataclasses.replace(sampling, seed=sampling.seed + number)
            texts = [prefix + prompts[prompt] for prompt in batch]
            found = generate(model, texts, own, intervention=intervention, sae=sae)
            new = [
                {
                    "prompt": prompt,
                    "number": number,
                    "text": one.text,
                    "tokens": list(one.tokens),
                    "finish": one.stopped,
                }
                for prompt, one in zip(batch, found, strict=True)
            ]
            file.write("".join(json.dumps(row) + "\n" for row in new).encode())
            file.flush()
            os.fsync(file.fileno())
            rows += new
            progress(len(rows), total)
    os.replace(part, path)
    return rows


def _whole_units(
    part: Path, units: Sequence[tuple[range, int]]
) -> tuple[list[dict[str, Any]], int, int]:
    """The rows of the units that are whole, how many units, and how many bytes they take."""
    if not part.exists():
        return [], 0, 0
    lines = part.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    rows: list[dict[str, Any]] = []
    n_units = 0
    for batch, number in units:
        own = lines[len(rows) : len(rows) + len(batch)]
        if len(own) < len(batch):
            break
        rows += _checked(part, own, batch, number)
        n_units += 1
    return rows, n_units, sum(map(len, lines[: len(rows)]))


def _read(path: Path, units: Sequence[tuple[range, int]]) -> list[dict[str, Any]]:
    """The rows of a file that is whole."""
    lines = path.read_bytes().splitlines(keepends=True)
    rows: list[dict[str, Any]] = []
    for batch, number in units:
        rows += _checked(path, lines[len(rows) : len(rows) + len(batch)], batch, number)
    if len(rows) != len(lines):
        raise _other(path)
    return rows


def _checked(path: Path, lines: Sequence[bytes], batch: range, number: int) -> list[dict[str, Any]]:
    """The lines as rows; an InputError if they are not those of the unit."""
    rows: list[dict[str, Any]] = []
    for line in lines:
        try:
            row: object = json.loads(line)
        except ValueError:
            raise _other(path) from None
        if not isinstance(row, dict):
            raise _other(path)
        rows.append(cast(dict[str, Any], row))
    if [(row.get("prompt"), row.get("number")) for row in rows] != [(p, number) for p in batch]:
        raise _other(path)
    return rows


def _other(path: Path) -> InputError:
    return InputError(
        f"{path} is not what these settings write; remove it, and the same command writes it again"
    )


def _gathered(
    model: LanguageModel, prompts: Sequence[str], n: int, rows: Sequence[dict[str, Any]]
) -> Written:
    texts = [[""] * n for _ in prompts]
    tokens: list[list[list[int]]] = [[[] for _ in range(n)] for _ in prompts]
    for row in rows:
        texts[row["prompt"]][row["number"]] = row["text"]
        tokens[row["prompt"]][row["number"]] = row["tokens"]
    return Written(
        prompts=list(prompts),
        prompt_tokens=[prompt_tokens(model, prompt) for prompt in prompts],
        texts_PN=texts,
        tokens_PN=tokens,
    )
