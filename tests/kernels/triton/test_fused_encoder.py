"""The fused encoder against a dense product and selection; wrong rows fail verification."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import policy, reference
from sparsteer.kernels.accelerators import unverified_rows
from sparsteer.kernels.accelerators.fused_encoder import fused_topk
from sparsteer.kernels.accelerators.unverified_rows import encode_unverified_
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.encode import encode_topk
from sparsteer.kernels.policy import backend_of, encode_plan


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Several tiles at small sizes; the interpreter's products of float32 are exact, not TF32."""
    monkeypatch.setenv(
        "SPARSTEER_TILES",
        "encode_topk:BLOCK_B=16,BLOCK_F=64,BLOCK_D=32,GROUP=16,KEPT=4,num_warps=4",
    )
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    yield
    matmul.fp32_precision = before


def inputs(
    n_rows: int, n_latents: int, width: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = [(n_rows, width), (n_latents, width), (n_latents,)]
    return tuple(torch.randn(*shape).to(device, dtype) for shape in shapes)  # pyright: ignore[reportReturnType] - three by construction


def is_fused(x: Tensor, n_latents: int, k: int) -> bool:
    n_rows, width = x.shape
    return encode_plan(n_rows, width, n_latents, k, backend_of(x)).path == "fused"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 5, 3), (19, 150, 40), (33, 130, 64)])
@pytest.mark.slow_except("size0-dtype0", "size2-dtype1")
def test_verified_rows_are_exact(
    size: tuple[int, int, int], dtype: torch.dtype, device: str
) -> None:
    n_rows, n_latents, width = size
    x, W_enc, b_enc = inputs(*size, dtype, device)
    k = min(4, n_latents)
    codes, verified = fused_topk(x, W_enc, b_enc, k)
    zero = torch.zeros(width, device=device, dtype=torch.float64)
    pre = reference.pre_activations(x.double(), zero, W_enc.double(), b_enc.double())
    oracle = reference.topk_select(pre, k)
    assert n_rows == 1 or verified.float().mean() > 0.5
    ours, exact = codes.dense(n_latents).double(), oracle.dense(n_latents)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    if device == "cuda":
        tolerance = 2e-2  # TF32
    torch.testing.assert_close(ours[verified], exact[verified], rtol=tolerance, atol=tolerance)


def test_a_crowded_group_and_a_tied_cut_fail_verification(device: str) -> None:
    W_enc = torch.eye(64, device=device)
    rows = torch.zeros(3, 64, device=device)
    rows[0, :6] = torch.arange(6, 0, -1.0)  # six of the five largest beside each other: 4 stored
    rows[1, ::8] = 1.0  # eight equal values for five places
    rows[2, ::12] = torch.arange(1.0, 7.0)  # apart and different
    codes, verified = fused_topk(rows, W_enc, torch.zeros(64, device=device), 5)
    assert verified.tolist() == [False, False, True]  # pyright: ignore[reportUnknownMemberType] - untyped builtin
    assert set(map(int, codes.indices[2])) == {12, 24, 36, 48, 60}


def test_rows_that_fail_verification_fall_back_to_the_exact_path(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "_MOST_ROWS_UNVERIFIED", 1.0)
    x = torch.zeros(3, 64, device=device)
    x[0, :6] = torch.arange(6, 0, -1.0)
    x[1, ::8] = 1.0
    x[2, ::12] = torch.arange(1.0, 7.0)
    zero = torch.zeros(64, device=device)
    assert is_fused(x, 64, 5)
    codes = encode_topk(x, zero, torch.eye(64, device=device), zero, 5)
    oracle = reference.topk_select(x, 5)
    torch.testing.assert_close(codes.dense(64), oracle.dense(64), rtol=1e-4, atol=0)
    assert torch.equal(codes.dense(64)[:2], oracle.dense(64)[:2])


@pytest.mark.parametrize("longest", [32768, 0], ids=["registers", "memory"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("rows_at_once", [64, 17])
@pytest.mark.slow_except("17-0.1-registers")
def test_however_many_rows_are_not_verified_each_is_exact(
    longest: int, fraction: float, rows_at_once: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others stay as they are; the buffer may hold all rows, or take several rounds."""
    monkeypatch.setattr(unverified_rows, "LONGEST_IN_REGISTERS", longest)
    B, F, D, k = 43, 150, 40, 5
    x, W_enc, b_enc = inputs(B, F, D, torch.float32, device)
    b_enc[:2] = b_enc[2]
    W_enc[:2] = W_enc[2]  # three equal values in each row
    b_enc[140:] = torch.nan
    b_enc[140:] = b_enc[140:].where(torch.arange(10, device=device) == 3, -9.0)  # NaN in each row
    verified = torch.rand(B, device=device) >= fraction
    indices = torch.full((B, k), 7, device=device)
    codes = Codes(indices, torch.full((B, k), 0.5, device=device))
    encode_unverified_(codes, verified, x, W_enc, b_enc, rows_at_once)
    pre = x @ W_enc.T + b_enc
    oracle = reference.topk_select(pre, k)
    again = ~verified
    tolerance = 2e-2 if device == "cuda" else 1e-5  # TF32
    torch.testing.assert_close(
        codes.dense(F)[again],
        oracle.dense(F)[again],
        rtol=tolerance,
        atol=tolerance,
        equal_nan=True,
    )
    assert (codes.indices[verified] == 7).all() and (codes.values[verified] == 0.5).all()


def test_nan_and_infinity_stay_visible(device: str) -> None:
    x, W_enc, b_enc = inputs(4, 150, 20, torch.float32, device)
    b_enc[3], b_enc[70] = torch.nan, torch.inf
    codes, _ = fused_topk(x, W_enc, b_enc, 4)
    assert codes.values.isnan().sum() == 4 and codes.values.isinf().sum() == 4


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy in the interpreter, as intended
def test_nan_of_either_sign_is_kept_beyond_the_last_latent_it_is_not(device: str) -> None:
    x, W_enc, b_enc = inputs(4, 70, 20, torch.float32, device)
    b_enc[3], b_enc[69] = torch.nan, -torch.tensor(torch.nan)
    x[1, 4] = torch.inf  # infinity times the zeros beyond latent 70 is NaN, too
    codes, verified = fused_topk(x, W_enc, b_enc, 4)
    assert (codes.values[[0, 2, 3]].isnan().sum(-1) == 2).all()
    assert verified[[0, 2, 3]].all() and not verified[1]
    assert (codes.indices < 70).all() and not codes.values[1].isfinite().all()


def test_unused_slots_are_zero(device: str) -> None:
    x, W_enc, _ = inputs(5, 100, 20, torch.float32, device)
    codes, verified = fused_topk(x, W_enc, torch.full((100,), -1e6, device=device), 4)
    assert (codes.values == 0).all() and (codes.indices == 0).all() and verified.all()


def test_it_serves_only_what_it_computes_without_loss(
    device: str,
) -> None:
    x = torch.randn(4, 20, device=device)
    assert is_fused(x, 12288, 8)
    assert not is_fused(x, 40, 20)  # nearly every row would be computed twice
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    assert not is_fused(x, 12288, 8) and is_fused(x.bfloat16(), 12288, 8)
