"""The table in docs/models.md says what tiny models of each family do."""

import pytest

from .model_families import HEAD, PAGE, line, written
from .model_shapes import FAMILIES

# transformers' own code tells its own code so.
pytestmark = pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")

QUICK = (
    "opt",
    "qwen3_5_text",
    "deepseek_v3",
    "mamba",
    "codegen",
)


def lines() -> list[str]:
    """The lines of the table below its head."""
    table = PAGE.read_text().partition(HEAD)[2].partition("\n\n")[0]
    return table.strip().splitlines()[1:]


@pytest.mark.slow
@pytest.mark.parametrize("family", QUICK)
def test_the_table_says_what_a_family_does(family: str) -> None:
    assert line(family) in lines()


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in QUICK])
def test_the_table_says_what_every_family_does(family: str) -> None:
    assert line(family) in lines()


def test_every_family_is_in_the_table_and_none_is_wrong() -> None:
    assert [each.split(" | ")[0].removeprefix("| ") for each in lines()] == list(FAMILIES)
    assert "WRONG" not in PAGE.read_text()


def test_only_the_table_is_written() -> None:
    page = PAGE.read_text()
    assert written(page, lines()) == page
    changed = written(page, ["| a |"])
    assert changed.startswith(page.partition(HEAD)[0]) and "| a |\n\n" in changed
    assert changed.endswith(page.rpartition("\n\n")[2])
