"""Files that other libraries wrote encode and decode here as they did there.

`make check-interop` makes the fixtures with those libraries, and compares many more.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - its path type is an open generic

from sparsteer.sae import SparseAutoencoder
from sparsteer.sae.interop.layouts import LAYOUTS, OWN, find

FIXTURES = Path(__file__).parent / "fixtures"
CASES = sorted(FIXTURES.glob("*/*"))
GOAL = 1e-5


def loaded(case: Path) -> tuple[SparseAutoencoder, dict[str, torch.Tensor]]:
    """The autoencoder of a case, and the library's rows, codes and reconstruction."""
    says = json.loads((case / "case.json").read_text(encoding="utf-8"))
    sae = SparseAutoencoder.load(case / "checkpoint" / says["load"])
    return sae, load_file(case / "expected.safetensors")


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def test_every_layout_has_cases() -> None:
    assert {case.parent.name for case in CASES} == set(LAYOUTS.names()) - {OWN}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}-{case.name}")
@torch.no_grad()
def test_codes_and_reconstruction_are_the_librarys(case: Path) -> None:
    sae, expected = loaded(case)
    says = json.loads((case / "case.json").read_text(encoding="utf-8"))
    assert find(case / "checkpoint" / says["load"]).layout == case.parent.name
    rows_ND = expected["rows"]
    codes = sae.encode(rows_ND)
    assert (expected["codes"] > 0).any()
    assert difference(codes.dense(sae.config.n_latents), expected["codes"]) <= GOAL
    assert difference(sae.reconstruct(rows_ND, codes), expected["reconstruction"]) <= GOAL
    for row in range(len(rows_ND)):
        found_1F = sae.encode(rows_ND[row : row + 1]).dense(sae.config.n_latents)
        off = (found_1F - expected["codes"][row : row + 1]).abs().max()
        assert off <= GOAL * expected["codes"].abs().max()


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name.endswith("few-positive")], ids=str
)
def test_some_rows_have_fewer_than_k_positive_latents(case: Path) -> None:
    sae, expected = loaded(case)
    k = sae.config.latents_of_row
    assert k is not None
    active_N = (expected["codes"] > 0).sum(1)
    assert (active_N < k).any() and (active_N > 0).any()


def test_saved_again_in_this_packages_own_layout_they_stay_the_same(tmp_path: Path) -> None:
    for case in CASES[::5]:
        sae, expected = loaded(case)
        sae.save(tmp_path / case.parent.name / case.name)
        again = SparseAutoencoder.load(tmp_path / case.parent.name / case.name)
        assert torch.equal(again(expected["rows"]), sae(expected["rows"]))
