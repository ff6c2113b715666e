"""How alike two autoencoders encode, held against dense codes, and what int8 costs."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparsteer.sae import JumpReLUConfig, SparseAutoencoder, TopKConfig
from sparsteer.sae.interop.export import export
from sparsteer.training.evaluation.code_agreement import code_agreement

from ...sae.random_sae import random_sae

D, F = 13, 57


def test_it_is_what_dense_codes_say() -> None:
    one, other = random_sae(TopKConfig(D, F, 5)), random_sae(JumpReLUConfig(D, F))
    rows_ND = 3 * torch.randn(1031, D)
    found = code_agreement(one, other, rows_ND)
    first_NF, second_NF = (sae.encode(rows_ND).dense(F).double().detach() for sae in (one, other))
    both_N = ((first_NF > 0) & (second_NF > 0)).sum(1)
    either_N = ((first_NF > 0) | (second_NF > 0)).sum(1)
    shared_N = both_N / either_N.clamp(min=1)
    assert found.rows == 1031
    assert found.l0 == pytest.approx(float((first_NF > 0).sum(1).double().mean()))
    assert found.l0_other == pytest.approx(float((second_NF > 0).sum(1).double().mean()))
    assert found.shared == pytest.approx(float(shared_N.double().mean()), rel=1e-6)
    error = math.sqrt(squares(second_NF - first_NF) / squares(first_NF))
    assert found.value_error == pytest.approx(error, rel=1e-6)
    apart = squares(one(rows_ND) - other(rows_ND)) / squares(rows_ND - rows_ND.mean(0))
    assert found.reconstruction_error == pytest.approx(math.sqrt(apart), rel=1e-5)


def squares(values: Tensor) -> float:
    """The sum of squares."""
    return float(values.detach().double().square().sum())


def test_the_same_autoencoder_agrees_and_another_does_not() -> None:
    sae = random_sae(TopKConfig(D, F, 5))
    rows_ND = torch.randn(50, D)
    same = code_agreement(sae, copy.deepcopy(sae), rows_ND)
    assert (same.shared, same.value_error, same.reconstruction_error) == (1, 0, 0)
    other = SparseAutoencoder(TopKConfig(D, F, 5), seed=9)
    assert code_agreement(sae, other, rows_ND).shared < 0.5


def test_int8_changes_the_codes_little(tmp_path: Path) -> None:
    """Much less than four bits would: the error of the codes is that of rounded elements."""
    sae = random_sae(TopKConfig(64, 300, 16))
    export(sae, tmp_path / "int8", "sparsteer", dtype="int8")
    rows_ND = 5 * torch.randn(2000, 64)
    found = code_agreement(sae, SparseAutoencoder.load(tmp_path / "int8"), rows_ND)
    assert found.shared > 0.97 and found.value_error < 0.15
    torch.testing.assert_close(found.l0, found.l0_other)
    coarse = copy.deepcopy(sae)
    with torch.no_grad():
        step_F1 = coarse.W_enc.abs().amax(1, keepdim=True) / 7
        coarse.W_enc.copy_((coarse.W_enc / step_F1).round() * step_F1)
    assert code_agreement(sae, coarse, rows_ND).value_error > 3 * found.value_error


def test_what_cannot_be_compared_is_refused() -> None:
    sae, other = random_sae(TopKConfig(D, F, 5)), random_sae(TopKConfig(D, F + 1, 5))
    with pytest.raises(ValueError, match="not the same sizes"):
        code_agreement(sae, other, torch.randn(5, D))
    with pytest.raises(ValueError, match="at least two"):
        code_agreement(sae, sae, torch.randn(1, D))
