"""Each path is planned where its conditions hold, and operators follow their plans."""

from types import SimpleNamespace

import pytest
import torch

from sparsteer.kernels import policy
from sparsteer.kernels.policy import (
    Backend,
    backend_of,
    decode_mse_plan,
    encode_plan,
    lists_used_slots,
    pre_activation_rows,
    product_plan,
    sparse_plan,
    topk_plan,
    typical_plans,
)

PLAIN_CPU = Backend(dtype=torch.float32)
FAST_CPU = Backend(dtype=torch.float32, onednn=True, bfloat16=True)
GPU = Backend(dtype=torch.bfloat16, on_cpu=False, triton=True)


def test_a_cpu_tensors_backend() -> None:
    backend = backend_of(torch.zeros(2, dtype=torch.float64))
    assert (backend.dtype, backend.on_cpu, backend.triton) == (torch.float64, True, False)


@pytest.mark.parametrize(
    ("n_rows", "width", "n_latents", "k", "backend", "path", "why"),
    [
        (256, 768, 12288, 32, FAST_CPU, "screened", "bfloat16"),
        (256, 768, 12288, 256, FAST_CPU, "screened", "bfloat16"),
        (255, 768, 12288, 32, FAST_CPU, "blocks", "255 rows"),
        (1024, 16, 12288, 32, FAST_CPU, "blocks", "196608 weights are too few"),
        (1024, 768, 12288, 257, FAST_CPU, "blocks", "12288 latents are too few"),
        (1024, 768, 12288, 0, FAST_CPU, "blocks", "k is 0"),
        (1024, 768, 12288, 32, FAST_CPU._replace(dtype=torch.float64), "blocks", "only float32"),
        (1024, 768, 12288, 32, FAST_CPU._replace(on_cpu=False), "blocks", "only float32"),
        (1024, 768, 12288, 32, PLAIN_CPU, "blocks", "does not multiply bfloat16"),
        (4096, 768, 12288, 32, GPU, "fused", "width 768"),
        (4096, 4096, 12288, 32, GPU, "blocks", "width 4096 is above"),
        (4096, 768, 12288, 32, GPU._replace(dtype=torch.float32), "blocks", "TF32"),
        (4096, 768, 12288, 32, GPU._replace(dtype=torch.float32, tf32=True), "fused", "width 768"),
        (4096, 768, 40, 20, GPU, "blocks", "would fail verification"),
        (4096, 768, 12288, 12289, GPU, "blocks", "k is 12289"),
        (4096, 768, 1 << 20, 32, GPU, "blocks", "registers"),
    ],
)
def test_encode(
    n_rows: int, width: int, n_latents: int, k: int, backend: Backend, path: str, why: str
) -> None:
    plan = encode_plan(n_rows, width, n_latents, k, backend)
    assert plan.path == path and why in plan.why


@pytest.mark.parametrize(
    ("n_rows", "n_weights", "backend", "path"),
    [
        (64, 1 << 18, FAST_CPU, "onednn"),
        (63, 1 << 18, FAST_CPU, "torch"),
        (64, (1 << 18) - 1, FAST_CPU, "torch"),
        (64, 1 << 18, PLAIN_CPU, "torch"),
        (64, 1 << 18, FAST_CPU._replace(dtype=torch.bfloat16), "torch"),
        (64, 1 << 18, GPU, "torch"),
    ],
)
def test_product(n_rows: int, n_weights: int, backend: Backend, path: str) -> None:
    plan = product_plan(n_rows, n_weights, backend)
    assert plan.path == path
    assert plan.rows_at_once == {"onednn": 256, "torch": 512}[path]
    assert product_plan(n_rows, n_weights, backend, same_dtype=False).path == "torch"


def test_a_gpu_takes_the_pre_activations_of_a_usual_batch_at_once() -> None:
    assert pre_activation_rows(12288, product_plan(4096, 12288 * 768, GPU), GPU) >= 4096
    huge = pre_activation_rows(1 << 20, product_plan(4096, 1 << 30, GPU), GPU)
    assert huge == 512
    on_cpu = product_plan(4096, 12288 * 768, FAST_CPU)
    assert pre_activation_rows(12288, on_cpu, FAST_CPU) == 256


@pytest.mark.parametrize(
    ("n_latents", "n", "triton", "path"),
    [
        (8192, 32, True, "registers"),
        (8193, 32, True, "listed_groups"),
        (32768, 512, True, "listed_groups"),
        (32768, 513, True, "registers"),
        (32769, 513, True, "listed_groups"),
        (12288, 32, False, "compiled"),
    ],
)
def test_topk(n_latents: int, n: int, triton: bool, path: str) -> None:
    assert topk_plan(n_latents, n, triton=triton).path == path


def test_a_gpu_without_its_kernels_sorts() -> None:
    plans = typical_plans(4096, 768, 12288, 32, GPU._replace(triton=False))
    assert plans["topk"].path == "sort"


@pytest.mark.parametrize(
    ("n_latents", "slots", "backend", "path"),
    [
        (1000, 900, PLAIN_CPU, "dense"),
        (12288, 32, PLAIN_CPU, "embedding_bag"),
        (600, 120, PLAIN_CPU, "embedding_bag"),
        (600, 120, FAST_CPU, "dense"),
        (600, 0, PLAIN_CPU, "embedding_bag"),
        (4608, 32, GPU, "dense"),
        (12288, 32, GPU, "triton"),
    ],
)
def test_sparse_products(n_latents: int, slots: int, backend: Backend, path: str) -> None:
    plan = sparse_plan(n_latents, slots, backend)
    assert plan.path == path and f"{n_latents} latents for {slots} slots" in plan.why


def test_the_loss_takes_one_kernel_where_a_row_fits_in_registers() -> None:
    assert decode_mse_plan(12288, 4096, 32, GPU).path == "one_kernel"
    assert decode_mse_plan(12288, 4097, 32, GPU).path == "separate"
    assert decode_mse_plan(4608, 576, 32, GPU).path == "separate"
    assert decode_mse_plan(12288, 768, 32, FAST_CPU).path == "compiled"
    assert decode_mse_plan(600, 768, 120, FAST_CPU).path == "separate"
    bfloat16 = FAST_CPU._replace(dtype=torch.bfloat16)
    assert decode_mse_plan(12288, 768, 32, bfloat16).path == "separate"


def test_slots_are_listed_where_many_are_unused() -> None:
    assert lists_used_slots(89, 100) and not lists_used_slots(90, 100)


def test_a_plan_for_every_operator_with_a_reason() -> None:
    for backend in (PLAIN_CPU, FAST_CPU, GPU):
        plans = typical_plans(4096, 768, 12288, 32, backend)
        assert {"encode", "product", "topk", "decode", "decode_mse", "backward"} == plans.keys()
        assert all(plan.why and not plan.why.endswith(".") for plan in plans.values())


@pytest.mark.parametrize("precision", ["tf32", "ieee", "none"])
def test_tf32_is_taken_where_it_is_set(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(fp32_precision=precision))
    assert policy.takes_tf32() == (precision == "tf32")
