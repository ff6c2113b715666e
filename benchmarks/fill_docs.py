"""Put the newest result tables into a page, between the comments that name them.

    python benchmarks/fill_docs.py docs/kernels.md

`<!-- results NAME -->` ... `<!-- end -->` gets the newest results/DATE-NAME.md without its title,
as far to the right as the first comment, for an item of a list. A name without a result file keeps
what stands there.
"""

import re
import sys
import textwrap
from pathlib import Path

from results_file import RESULTS

_PART = re.compile(
    r"^(?P<indent> *)(?P<begin><!-- results (?P<name>\S+) -->\n).*?(?P<end><!-- end -->)",
    re.DOTALL | re.MULTILINE,
)


def filled(page: str, results: Path = RESULTS) -> str:
    """The page with the newest tables in their places."""

    def replace(part: re.Match[str]) -> str:
        found = sorted(results.glob(f"????-??-??-{part['name']}.md"))
        if not found:
            return part[0]
        body = found[-1].read_text(encoding="utf-8").split("\n", 1)[1].strip()
        text = f"{part['begin']}\n{body}\n\n{part['end']}"
        return textwrap.indent(text, part["indent"])

    return _PART.sub(replace, page)


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
