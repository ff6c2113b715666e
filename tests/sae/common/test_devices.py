"""Devices that a user names."""

import pytest
import torch

from sparsteer.sae.common.devices import resolve_device
from sparsteer.sae.common.errors import InputError


@pytest.mark.parametrize("name", ["meta", "privateuseone", "xla", "gpu", "", "cpu:x", "cuda:999"])
def test_a_device_that_cannot_be_used_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"device {name!r} cannot be used here .*; use cpu, cuda"):
        resolve_device(name)


def test_a_device_that_can() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
