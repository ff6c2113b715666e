"""Failures while running become one sentence."""

import errno

import pytest

from sparsteer.cli.failures import sentence
from sparsteer.sae.fetch import FetchError
from sparsteer.training.trainer import NonFiniteLoss


class OutOfMemoryError(RuntimeError):
    """As torch's, which cannot be raised without a device."""


class SafetensorError(Exception):
    """As the library's, which is no OSError."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            "no space left on the disk at",
        ),
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            "no space left on the",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left on the disk; free some"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "permission denied at /x/y"),
        (MemoryError(), "out of memory; lower --batch-size"),
        (OutOfMemoryError("CUDA out of memory. Tried\nto"), "out of memory; lower --batch-size"),
        (NonFiniteLoss("the loss of step 3 is not finite"), "the loss of step 3 is not finite"),
        (FetchError("pip could not download x; check"), "pip could not download x; check"),
        (RuntimeError("boom\nand more"), "boom (RuntimeError, unexpected; SPARSTEER_DEBUG=1 shows"),
        (AssertionError(), "no message (AssertionError, unexpected"),
    ],
)
def test_one_sentence(error: Exception, expected: str) -> None:
    found = sentence(error)
    assert found.startswith(expected)
    assert "\n" not in found
