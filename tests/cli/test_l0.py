"""The verb `l0`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_it_says_how_many_latents_are_needed(
    sparsteer: Callable[..., Any], cache: Path, run_folder: Path
) -> None:
    words = ("l0", run_folder, "--cache", cache, "--contexts", 3, "--percent", 0.1, 20)
    done = sparsteer(*words, "--json")
    assert done.status == 0
    found = done.values
    assert found["l0"] == pytest.approx(4, abs=0.2)  # its k
    assert found["curve"][0]["perplexity"] == 1 and found["curve"][-1]["l0"] == 0
    assert [(c["percent"], c["of"]) for c in found["choices"]] == [
        (percent, of) for percent in (0.1, 20) for of in ("sae", "model")
    ]
    for choice in found["choices"]:
        base = found["loss_with_sae" if choice["of"] == "sae" else "loss"]
        if choice["l0"] is not None:
            assert choice["loss"] <= base + choice["percent"] / 100 + 1e-9
            assert 0 <= choice["l0"] <= found["l0"]
    shown = sparsteer(*words)
    assert "with the whole autoencoder" in shown.out and "L0 " in shown.out


def test_wrong_input(sparsteer: Callable[..., Any], cache: Path, run_folder: Path) -> None:
    done = sparsteer("l0", run_folder, "--cache", cache, "--contexts", 0)
    assert done.status == 2 and "--contexts is 0" in done.error
