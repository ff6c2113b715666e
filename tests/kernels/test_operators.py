"""The custom operators: their declarations, and whole functions under torch.compile."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsteer.kernels.decode import decode
from sparsteer.kernels.encode import encode_topk


def leaves(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """x, b_dec, W_enc, b_enc, W_dec."""
    shapes = [(6, 9), (9,), (70, 9), (70,), (70, 9)]
    return [torch.randn(*shape, dtype=dtype).requires_grad_() for shape in shapes]


def cases() -> dict[str, tuple[Any, ...]]:
    x, b_dec, W_enc, b_enc, W_dec = leaves()
    values = torch.rand(6, 3).requires_grad_()
    indices = torch.rand(6, 70).argsort(-1)[:, :3]
    detached = [t.detach() for t in (values, x, b_dec, W_enc)]
    return {
        "encode_topk": (x, b_dec, W_enc, b_enc, 3),
        "encode_backward": (*detached, indices, detached[0], True, True, True),
        "decode": (indices, values, W_dec),
        "decode_backward": (x.detach(), indices, detached[0], W_dec.detach(), True, True),
    }


@pytest.mark.parametrize("name", ["encode_topk", "encode_backward", "decode", "decode_backward"])
def test_an_operator_is_as_it_declares(name: str) -> None:
    operator = getattr(torch.ops.sparsteer, name).default
    result = torch.library.opcheck(operator, cases()[name])  # pyright: ignore[reportUnknownMemberType] - untyped
    assert set(result.values()) == {"SUCCESS"}


def reconstruct(x: Tensor, b_dec: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor) -> Tensor:
    return decode(encode_topk(x, b_dec, W_enc, b_enc, 4), W_dec, b_dec)


@pytest.mark.usefixtures("without_type_checks")
def test_the_whole_reconstruction_compiles_into_one_graph() -> None:
    tensors = leaves()
    # The backend that needs no C++ compiler still traces forward and backward.
    compiled = torch.compile(reconstruct, fullgraph=True, backend="aot_eager")  # pyright: ignore[reportUnknownMemberType] - untyped
    outputs: list[list[Tensor]] = []
    for function in (reconstruct, compiled):
        out = function(*tensors)
        outputs.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
    for ours, plain in zip(*outputs, strict=True):
        assert torch.equal(ours, plain)


def test_a_second_derivative_is_refused() -> None:
    tensors = leaves()
    out = reconstruct(*tensors)
    first = torch.autograd.grad(out.square().sum(), tensors[2], create_graph=True)[0]
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.sum(), tensors[2])
