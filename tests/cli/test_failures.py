"""Failures while running become one sentence."""

import errno

import pytest

from sparsteer.cli.failures import exit_status, sentence
from sparsteer.cli.main import VERBS
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.fetching.fetch import FetchError
from sparsteer.training.non_finite import NonFiniteLoss


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
        (
            OSError(errno.EFBIG, "File too large", "/x/y"),
            "a file would be larger than is allowed at",
        ),
        (
            SafetensorError("I/O error: File too large (os error 27)"),
            "a file would be larger than is allowed; raise the limit (ulimit -f)",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left on the disk; free some"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "permission denied at /x/y"),
        (MemoryError(), "out of memory; end other work on the device"),
        (OutOfMemoryError("CUDA out of memory. Tried\nto"), "out of memory; end other work"),
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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904, 32]"),
    ],
)
def test_out_of_memory_names_options_that_the_verb_has(error: Exception) -> None:
    assert sentence(error, VERBS["train"].options()).startswith(
        "out of memory; lower --batch-size or --n-latents, or end other work"
    )
    assert sentence(error, VERBS["pick"].options()) == "out of memory; end other work on the device"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("x is 3; give 4"), 2),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), 2),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "x"), 2),
        (FileExistsError(errno.EEXIST, "File exists", "x"), 2),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1),
        (OSError(errno.EIO, "Input/output error", "x"), 1),
        (RuntimeError("boom"), 1),
    ],
)
def test_status_2_where_the_input_is_wrong(error: Exception, status: int) -> None:
    assert exit_status(error) == status
    if status == 2:
        assert "; " in sentence(error), "a remedy"
