"""Both libraries of the encoder's product agree, and the choice follows machine and size."""

import pytest
import torch

from sparsteer.kernels import policy, processor
from sparsteer.kernels.accelerators.onednn import Affine, add_product_
from sparsteer.kernels.decode import decode
from sparsteer.kernels.encode import encode_topk

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)


def use(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_FEWEST_ROWS_IN_ONEDNN", 1)
    monkeypatch.setattr(policy, "_FEWEST_WEIGHTS_IN_ONEDNN", 1)
    monkeypatch.setattr(processor, "onednn_is_faster", lambda: library == "oneDNN")


@pytest.mark.parametrize("library", ["MKL", pytest.param("oneDNN", marks=needs_onednn)])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("F", "D"), [(1, 1), (33, 7), (130, 65)])
def test_blocks_are_as_accurate_as_eager(
    F: int, D: int, biased: bool, strided: bool, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(library, monkeypatch)
    weights = torch.randn(D, F).T if strided else torch.randn(F, D)
    weights.requires_grad_()
    bias = torch.randn(F, requires_grad=True) if biased else None
    affine = Affine(weights, bias, 12)
    for n_rows in (5, 5, 2):
        rows = torch.randn(2 * n_rows, D)[::2] if strided else torch.randn(n_rows, D)
        found = affine(rows)
        with torch.no_grad():
            exact = torch.nn.functional.linear(
                rows.double(), weights.double(), None if bias is None else bias.double()
            )
            eager = torch.nn.functional.linear(rows, weights, bias)
        assert found.dtype == torch.float32 and not found.requires_grad and found.is_contiguous()
        rounding = torch.finfo(torch.float32).eps * float(exact.abs().max())
        allowed = 2 * float((eager - exact).abs().max()) + rounding
        assert float((found - exact).abs().max()) <= allowed


@pytest.mark.parametrize("library", ["MKL", pytest.param("oneDNN", marks=needs_onednn)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 12, 7), (130, 65, 300)])
def test_products_are_added(
    shape: tuple[int, int, int], library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(library, monkeypatch)
    F, b, D = shape
    before, left, right = torch.randn(F, D), torch.randn(F, b), torch.randn(b, D)
    found = before.clone()
    add_product_(found, left, right)
    exact = before.double() + left.double() @ right.double()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)


@needs_onednn
@pytest.mark.parametrize("k", [6, 20], ids=["sparse", "dense"])
def test_codes_and_gradients_do_not_depend_on_the_library(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = [torch.randn(70, 9), torch.randn(9), torch.randn(50, 9), torch.randn(50)]
    leaves.append(torch.randn(50, 9))
    found: list[list[torch.Tensor]] = []
    for library in ("MKL", "oneDNN"):
        use(library, monkeypatch)
        inputs = [leaf.clone().requires_grad_() for leaf in leaves]
        codes = encode_topk(*inputs[:4], k=k)
        again = encode_topk(*inputs[:4], k=k)
        assert torch.equal(codes.values, again.values)
        out = decode(codes, inputs[4], inputs[1])
        gradients = torch.autograd.grad(out.square().mean(), inputs)
        found.append([codes.dense(50), out.detach(), *gradients])
    for in_mkl, in_onednn in zip(*found, strict=True):
        torch.testing.assert_close(in_mkl, in_onednn, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_onednn_takes_large_float32_products_on_a_cpu_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processor, "onednn_is_faster", lambda: True)
    weights, bias = torch.randn(512, 512), torch.randn(512)

    def in_onednn(weights: torch.Tensor, n_rows: int) -> bool:
        plan = Affine(weights, bias.to(weights.dtype), n_rows).plan
        assert plan.rows_at_once == (256 if plan.path == "onednn" else 512)
        return plan.path == "onednn"

    assert in_onednn(weights, 64)
    assert not in_onednn(weights, 63)
    assert not in_onednn(weights[:, :500], 64)
    assert not in_onednn(weights.double(), 64)
    assert Affine(weights, bias.double(), 64).plan.path == "torch"


def test_the_choice_asks_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    processor.onednn_is_faster.cache_clear()
    assert not processor.onednn_is_faster()
    processor.onednn_is_faster.cache_clear()
