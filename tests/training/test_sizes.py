"""Sizes that no memory holds are refused before anything is allocated or written."""

import os

import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.training.config import TrainConfig


@pytest.mark.parametrize("n_latents", [2**40, 2**62])
def test_a_dictionary_larger_than_the_memory_is_refused(n_latents: int) -> None:
    config = TrainConfig(cache="c", out="o", n_latents=n_latents)
    with pytest.raises(InputError, match=f"n_latents is {n_latents}, whose weights take .* GB, mo"):
        config.sae_config(576)


def test_one_as_large_as_the_memory_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    largest = 1000 * 4096 // (2 * 4 * 16)
    assert TrainConfig(cache="c", out="o", n_latents=largest).sae_config(16).n_latents == largest
    with pytest.raises(InputError, match="lower n_latents"):
        TrainConfig(cache="c", out="o", n_latents=largest + 1).sae_config(16)
