"""One sentence for whatever ended a command that was given right input."""

import errno

_FULL = "No space left on device"
"""How libraries that raise no OSError, such as safetensors, say it."""


def sentence(error: Exception) -> str:
    """What went wrong, with a remedy where there is a general one."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _FULL in str(error):
        return f"no space left on the disk{_file(error)}; free some and give the same command again"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror.lower()}{_file(error)}"
    # By its name: naming the class would import torch, also to report that torch is missing.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; lower --batch-size, or end other work on the device"
    lines = str(error).strip().splitlines() or ["no message"]
    if isinstance(error, OSError | ArithmeticError):
        return " ".join(lines)  # made to be read: fetching failed, the loss is not finite
    return (
        f"{lines[0]} ({type(error).__name__}, unexpected; SPARSTEER_DEBUG=1 shows where it arose)"
    )


def _file(error: Exception) -> str:
    filename = getattr(error, "filename", None)
    return f" at {filename}" if filename else ""
