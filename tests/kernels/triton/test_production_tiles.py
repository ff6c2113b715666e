"""Every kernel at the tile it has in training, over a grid of a few programs.

The other tests shrink tiles so that small inputs cross their edges; here no tile is overridden.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from sparsteer.kernels import policy, reference, tiles
from sparsteer.kernels.accelerators.fused_encoder import fused_topk
from sparsteer.kernels.batch_topk import batch_topk_select
from sparsteer.kernels.codes import Codes
from sparsteer.kernels.decode import decode, decode_mse
from sparsteer.kernels.gather_dot import gathered_dots
from sparsteer.kernels.jaccard import generalized_jaccard_csr
from sparsteer.kernels.jumprelu import jumprelu_select
from sparsteer.kernels.optimizer import adam_step_
from sparsteer.kernels.sparse_products import autoencoder_gradients
from sparsteer.kernels.top_afa import top_afa_select
from sparsteer.kernels.topk import topk_select

AccurateAsEager = Callable[[Sequence[Tensor | None], Sequence[Tensor], Sequence[Tensor]], None]


@pytest.fixture(autouse=True)
def production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSTEER_TILES", raising=False)
    monkeypatch.setattr(policy, "_DENSE_BELOW_LATENTS_PER_SLOT_ON_GPU", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_encoder(dtype: torch.dtype, device: str) -> None:
    """Three tiles of 128 x 256 x 64 (bfloat16) or 32 (TF32), the last of them partly beyond F."""
    x, W_enc, b_enc = (torch.randn(*n).to(device, dtype) for n in ((9, 150), (600, 150), (600,)))
    assert tiles.tile("encode_topk", 90, D=150, F=600)["BLOCK_F"] == 256
    codes, verified = fused_topk(x, W_enc, b_enc, 6)
    zero = torch.zeros(150, device=device, dtype=torch.float64)
    pre = reference.pre_activations(x.double(), zero, W_enc.double(), b_enc.double())
    oracle = reference.topk_select(pre, 6).dense(600)
    assert verified.float().mean() > 0.5
    tolerance = 1e-4 if dtype == torch.float32 and device == "cpu" else 2e-2  # TF32 on a GPU
    ours = codes.dense(600).double()
    torch.testing.assert_close(ours[verified], oracle[verified], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n_latents", "k", "path"),
    [
        (8192, 32, "registers"),
        (12288, 32, "listed_groups"),
        (30000, 600, "registers"),
        (131072, 64, "listed_groups"),
    ],
)
@pytest.mark.slow_except("8192-32-registers-dtype0", "12288-32-listed_groups-dtype1")
def test_topk(n_latents: int, k: int, path: str, dtype: torch.dtype, device: str) -> None:
    pre = torch.randn(2, n_latents).to(device, dtype)
    assert policy.topk_plan(n_latents, k, triton=True).path == path
    ours, oracle = topk_select(pre, k), reference.topk_select(pre.double(), k)
    assert torch.equal(ours.dense(n_latents).double(), oracle.dense(n_latents))


@pytest.mark.parametrize(
    ("n_latents", "l0"), [(8192, 60), (16384, 900), (20000, 40), (20000, 150), (20000, 2000)]
)
@pytest.mark.slow_except("16384-900", "20000-40")
def test_top_afa(n_latents: int, l0: int, device: str) -> None:
    """A row in registers, then lists of up to 1,024, of up to 4,096 and of more candidates."""
    pre = torch.randn(2, n_latents, device=device)
    norms = torch.rand(n_latents, device=device) + 0.5
    scaled = (pre.relu() * norms).double()
    target = scaled.sort(descending=True).values[:, :l0].square().sum(-1).sqrt().float()
    ours = top_afa_select(pre, norms, target)
    one = torch.ones(n_latents, device=device, dtype=torch.float64)
    oracle = reference.top_afa_select(scaled, one, target.double())
    assert ours.counts is not None and oracle.counts is not None
    assert torch.equal(ours.counts, oracle.counts) and int(ours.counts.min()) >= l0 - 1
    kept = oracle.dense(n_latents) > 0
    assert torch.equal(ours.dense(n_latents), torch.where(kept, pre, 0))


@pytest.mark.parametrize("n_latents", [12288, 131072])
@pytest.mark.slow_except("12288")
def test_batch_topk_and_jumprelu(n_latents: int, device: str) -> None:
    pre = torch.randn(2, n_latents, device=device)
    ours, oracle = batch_topk_select(pre, 40), reference.batch_topk_select(pre.double(), 40)
    assert torch.equal(ours.dense(n_latents).double(), oracle.dense(n_latents))
    threshold = torch.full((n_latents,), 3.0, device=device)
    codes = jumprelu_select(pre, threshold, 0.1)
    assert torch.equal(codes.dense(n_latents), reference.jumprelu(pre, threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [768, 2304, 4096])
@pytest.mark.slow_except("4096-dtype1", "768-dtype0")
def test_products(
    width: int, dtype: torch.dtype, device: str, accurate_as_eager: AccurateAsEager
) -> None:
    """BLOCK_D 1024 and 4096 with all their rows in flight; one latent's segment is split."""
    n_rows, n_latents, k = 300, 40, 3
    indices = torch.rand(n_rows, n_latents).argsort(-1)[:, :k]
    indices[:, 0] = 0  # more slots than a CHUNK
    indices, values = indices.to(device), (torch.rand(n_rows, k) + 0.1).to(device, dtype)
    grads = torch.randn(n_rows, k, device=device).to(dtype)
    x, centered = torch.randn(2, n_rows, width, device=device).to(dtype).unbind()
    W_dec, b_dec = (
        torch.randn(*n, device=device).to(dtype) for n in ((n_latents, width), (width,))
    )
    few = Codes(indices[:5], values[:5])
    loss, x_hat = decode_mse(few, W_dec, b_dec, x[:5])
    ours = [
        decode(few, W_dec, b_dec),
        x_hat,
        loss,
        gathered_dots(indices[:5], x[:5], W_dec),
        *autoencoder_gradients(indices, values, grads, x, centered, n_latents)[:2],
    ]

    def oracle(dtype: torch.dtype) -> list[Tensor]:
        v, g, W, rows = values.to(dtype), grads.to(dtype), W_dec.to(dtype), x.to(dtype)
        decoded = reference.decode(Codes(indices[:5], v[:5]), W, b_dec.to(dtype))
        loss = (decoded.to(torch.promote_types(dtype, torch.float32)) - rows[:5]).square().mean()
        return [
            decoded,
            decoded,
            loss,
            reference.gathered_dots(indices[:5], rows[:5], W),
            reference.weight_gradient(indices, v, rows, n_latents),
            reference.weight_gradient(indices, g, centered.to(dtype), n_latents),
        ]

    same = [tensor.to(got.dtype) for got, tensor in zip(ours, oracle(dtype), strict=True)]
    accurate_as_eager(ours, same, oracle(torch.float64))


@pytest.mark.parametrize("width", [768, 4096, 8192])
@pytest.mark.slow_except("8192")
def test_adam(width: int, device: str) -> None:
    weights = torch.nn.functional.normalize(torch.randn(3, width, device=device), dim=-1)
    first, second = torch.rand(2, 3, width, device=device).unbind()
    gradient = torch.randn(3, width, device=device)
    expected = reference.adam_step(
        weights.double(), gradient.double(), first.double(), second.double(),
        3, 0.01, (0.9, 0.99), 1e-8, True,
    )  # fmt: skip
    adam_step_(weights, gradient, first, second, step=3, lr=0.01, betas=(0.9, 0.99), unit_rows=True)
    for got, want in zip((weights, first, second), expected, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-6)


def test_jaccard(device: str) -> None:
    offsets = torch.tensor([0, 700, 700, 2500])
    indices, values = torch.randint(12288, (2500,)), torch.rand(2500)
    prototype = torch.rand(12288) * (torch.rand(12288) < 0.1)
    gold = reference.generalized_jaccard_csr(offsets, indices, values.double(), prototype.double())
    got = generalized_jaccard_csr(*(t.to(device) for t in (offsets, indices, values, prototype)))
    torch.testing.assert_close(got.cpu().double(), gold, rtol=1e-5, atol=1e-15)
