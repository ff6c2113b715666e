"""Write docs/options.md, the `--help` of every verb: `make docs`."""

import contextlib
import io
import os
from pathlib import Path
from unittest.mock import patch

from sparsteer.cli.help import show_help
from sparsteer.cli.main import VERBS

PAGE = Path(__file__).parent / "options.md"
_HEAD = """\
# Every option

What `sparsteer VERB --help` prints, written by `make docs`.
[cli.md](cli.md) shows the verbs at work.
"""


def page() -> str:
    """The text of the page, as wide as a terminal of 80 columns, without colors."""
    sections = [_HEAD]
    for name, verb in VERBS.items():
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), patch.dict(os.environ, COLUMNS="80", NO_COLOR="1"):
            show_help(f"sparsteer {name}", verb)
        text = "\n".join(line.rstrip() for line in shown.getvalue().strip().splitlines())
        sections.append(f"## sparsteer {name}\n\n```text\n{text}\n```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
