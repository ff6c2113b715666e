"""Dispatch by device and dtype, what it says when it cannot, and the table of tiles."""

import pytest
import torch

from sparsteer.kernels import dispatch, tiles


def test_cpu_tensors_take_pytorch() -> None:
    assert not dispatch.uses_triton(torch.ones(2))


class Elsewhere:
    """A tensor on a GPU, as far as the dispatcher looks."""

    is_cuda = True
    dtype = torch.bfloat16


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch.triton_problem.cache_clear()
    monkeypatch.setattr(dispatch, "_triton", None)
    monkeypatch.setattr(dispatch, "_import_error", "No module named 'triton'")


@pytest.mark.usefixtures("without_type_checks", "problem")
def test_a_gpu_without_triton_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu: torch.Tensor = Elsewhere()  # pyright: ignore[reportAssignmentType] - stands in for one
    with pytest.raises(RuntimeError, match=r"No module named 'triton'.*SPARSTEER_KERNELS=eager"):
        dispatch.uses_triton(gpu)
    monkeypatch.setenv("SPARSTEER_KERNELS", "eager")
    assert not dispatch.uses_triton(gpu)
    monkeypatch.setenv("SPARSTEER_KERNELS", "fast")
    with pytest.raises(RuntimeError, match="'fast', but must be triton or eager"):
        dispatch.uses_triton(gpu)
    dispatch.triton_problem.cache_clear()


@pytest.mark.parametrize(
    ("version", "works"), [("3.5.1", False), ("3.6.0", True), ("3.9.0", True), ("3.10.0", False)]
)
def test_versions(version: str, works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        __version__ = version

    monkeypatch.setattr(dispatch, "_triton", Library)
    dispatch.triton_problem.cache_clear()
    problem = dispatch.triton_problem()
    dispatch.triton_problem.cache_clear()
    assert (problem is None) == works
    assert works or version in str(problem)


def test_the_environment_overrides_single_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    before = tiles.tile("decode", 90, D=768)
    monkeypatch.setenv("SPARSTEER_TILES", "decode:ROWS=2, num_warps=1;adam:num_warps=8")
    assert tiles.tile("decode", 90, D=768) == before | {"ROWS": 2, "num_warps": 1}
    assert tiles.tile("adam", 80, D=768) == {"num_warps": 8}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("decode:WIDTH=2", "WIDTH of decode"),
        ("encode:ROWS=2", "'encode'; the operators are"),
        ("decode:ROWS", "OPERATOR:NAME=NUMBER"),
    ],
)
def test_wrong_overrides_are_named(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSTEER_TILES", text)
    with pytest.raises(ValueError, match=said):
        tiles.tile("decode", 90, D=768)
