"""One sentence and the exit status for whatever ended a command."""

import errno
from collections.abc import Collection

from ..sae.common.errors import InputError
from ..sae.common.paths import WRONG_PATH

_FULL = "No space left on device"
_TOO_LARGE = "File too large"
"""How libraries that raise no OSError, such as safetensors, say it."""

_NO_MEMORY = ("DefaultCPUAllocator", "not enough memory", "Storage size calculation overflowed")
"""How torch says on a CPU, in a RuntimeError, that memory does not suffice."""

_SIZES = ("batch-size", "n-latents", "examples", "before", "window-rows", "rows", "part-rows")
"""Options that decide how much memory a verb takes, the first to lower first."""


def exit_status(error: Exception) -> int:
    """2 where the input is wrong, also if only the file system noticed; else 1."""
    if isinstance(error, InputError):
        return 2
    return 2 if isinstance(error, OSError) and error.errno in WRONG_PATH else 1


def sentence(error: Exception, options: Collection[str] = ()) -> str:
    """What went wrong, with a remedy where there is a general one.

    Args:
        error: what was raised.
        options: names of the options that the verb has, of which a remedy may name some.
    """
    if isinstance(error, InputError):
        return str(error)
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or _FULL in str(error):
        return f"no space left on the disk{_file(error)}; free some and give the same command again"
    if number == errno.EFBIG or _TOO_LARGE in str(error):
        return (
            f"a file would be larger than is allowed{_file(error)}; raise the limit (ulimit -f), "
            "or write to another disk"
        )
    if isinstance(error, OSError) and error.strerror:
        remedy = f"; {WRONG_PATH[number]}" if number in WRONG_PATH else ""
        return f"{error.strerror.lower()}{_file(error)}{remedy}"
    if _is_out_of_memory(error):
        lower = [f"--{name}" for name in _SIZES if name in options][:2]
        remedy = f"lower {' or '.join(lower)}, or " if lower else ""
        return f"out of memory; {remedy}end other work on the device"
    lines = str(error).strip().splitlines() or ["no message"]
    if isinstance(error, OSError | ArithmeticError):
        return " ".join(lines)  # made to be read: fetching failed, the loss is not finite
    return (
        f"{lines[0]} ({type(error).__name__}, unexpected; SPARSTEER_DEBUG=1 shows where it arose)"
    )


def _is_out_of_memory(error: Exception) -> bool:
    # By its name: naming the class would import torch, also to report that torch is missing.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def _file(error: Exception) -> str:
    filename = getattr(error, "filename", None)
    return f" at {filename}" if filename else ""
