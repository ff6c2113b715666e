"""Train sparse autoencoders on language models, pick features, steer text and choose data.

The work is done by `sparsteer.sae`, `sparsteer.training` and `sparsteer.steering`; `sparsteer.cli`
is the command. The attribute `__version__` is the installed version.
"""

import sys
from importlib.metadata import version

# `kernels` has no __init__.py, so an editable install finds it through an entry of sys.path alone.
__path__.extend(entry for entry in sys.path if entry.startswith("__editable__.sparsteer"))


def __getattr__(name: str) -> str:
    if name == "__version__":
        return version("sparsteer")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "__version__"]
