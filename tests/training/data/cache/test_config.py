"""Configurations refuse wrong values with the value and the remedy, and import no torch."""

import subprocess
import sys
from typing import Any

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.training.data.cache.config import CacheConfig

REQUIRED: dict[str, Any] = {"model": "m", "dataset": "d", "out": "o"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": " "}, "model"),
        ({"out": ""}, "out"),
        ({"tokens": 0}, "tokens"),
        ({"context_length": 2}, "context_length"),
        ({"batch_size": 0}, "batch_size"),
        ({"shard_rows": -1}, "shard_rows"),
        ({"shuffle_buffer": 0}, "shuffle_buffer"),
        ({"seed": -1}, "seed"),
        ({"held_out_fraction": 1.0}, "held_out_fraction"),
        ({"held_out_fraction": float("nan")}, "held_out_fraction"),
        ({"text_field": "a+"}, "text_field"),
        ({"text_field": ""}, "text_field"),
        ({"site": ("a", "")}, "site"),
        ({"site": ("a", "b", "a")}, "site"),
    ],
)
def test_wrong_cache_settings(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        CacheConfig(**{**REQUIRED, **changes})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("tokens", "fraction", "rows"),
    [(1000, 0.05, 50), (10, 0.05, 1), (1, 0.05, 0), (1000, 0.0, 0), (3, 0.99, 2), (2, 0.5, 1)],
)
def test_held_out_rows(tokens: int, fraction: float, rows: int) -> None:
    config = CacheConfig(**REQUIRED, tokens=tokens, held_out_fraction=fraction)
    assert config.held_out_rows == rows


WITHOUT_TORCH = """
import sys
import sparsteer.training
from sparsteer.training import CacheConfig, TrainerConfig

for wrong in ({"dtype": "float8"}, {"site": "blocks.1.hook_resid_post"}, {"tokens": 10.5}):
    try:
        CacheConfig(model="m", dataset="d", out="o", **wrong)
    except ValueError as error:
        print(error)
print("heavy:", *({"torch", "datasets"} & sys.modules.keys()))
"""


def test_values_of_a_wrong_type_and_imports() -> None:
    """In a process of its own, without the type checks of the tests."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "dtype is 'float8'; choose float16, bfloat16, float32 or int8",
        "site is the text 'blocks.1.hook_resid_post'; give a tuple: ('blocks.1.hook_resid_post',)",
        "tokens is 10.5, but must be a whole number of at least 1",
        "heavy:",
    ]
