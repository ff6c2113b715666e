"""The documentation's commands are ones that the command accepts, and no verb goes unexplained."""

import ast
import inspect
import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import sparsteer
from sparsteer.cli.arguments import parse, wants_help
from sparsteer.cli.main import VERBS, find_verb

ROOT = Path(__file__).parents[1]
AGENTS = [ROOT / "docs/llms.txt", ROOT / "docs/skills/sparsteer/SKILL.md"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *AGENTS]
FENCED = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def fenced(page: Path) -> list[tuple[str, str]]:
    """The kind and the text of every fenced block."""
    return [(match["kind"], match["text"]) for match in FENCED.finditer(page.read_text())]


def commands(page: Path) -> list[str]:
    """The command lines of a page, without the prompt, lines that go on joined.

    In a block with prompts, lines without one are output.
    """
    found: list[str] = []
    for kind, text in fenced(page):
        lines = text.replace("\\\n", " ").splitlines()
        prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        if kind in ("", "sh", "bash", "console"):
            found += prompted or lines
    return [line for line in found if line.split()[:1] == ["sparsteer"]]


def recipes() -> dict[str, str]:
    """YAML blocks that begin with a comment of their file name."""
    named = re.compile(r"# (\S+\.yaml)\n")
    return {
        match[1]: text
        for page in PAGES
        for kind, text in fenced(page)
        if kind == "yaml" and (match := named.match(text))
    }


def words_of(line: str) -> list[str]:
    """The words behind `sparsteer`, up to a comment or what the shell would do with the result."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = list(lexer)
    operators = [place for place, word in enumerate(words) if set(word) <= set("|&;<>")]
    # N stands for a number that the reader's own run has.
    return ["1" if word == "N" else word for word in words[1 : min(operators, default=len(words))]]


LINES = [pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in commands(page)]


@pytest.mark.parametrize("line", LINES)
def test_the_command_is_accepted(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipes").symlink_to(ROOT / "recipes")
    for name, text in recipes().items():
        Path(name).write_text(text)
    words = words_of(line)
    if words in (["--help"], ["--version"]):
        return
    name, rest = find_verb(words, VERBS)
    if not wants_help(rest):
        parse(f"sparsteer {name}", VERBS[name], rest)


def test_there_are_commands_to_check() -> None:
    found = {find_verb(words_of(line), VERBS)[0] for line in commands(ROOT / "docs" / "cli.md")}
    assert found == set(VERBS)


def test_every_verb_has_a_section() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    assert re.findall(r"^## sparsteer (.+)$", text, re.MULTILINE) == list(VERBS)


def test_the_page_of_options_is_what_help_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))  # pyright: ignore[reportUnknownMemberType] - untyped
    monkeypatch.setenv("COLUMNS", "133")  # it is the page that decides how wide it is
    write_options: Any = import_module("write_options")
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == write_options.page(), "run: make docs, or python docs/write_options.py"


@pytest.mark.parametrize("page", AGENTS, ids=lambda page: page.name)
def test_what_programs_read_names_nothing_that_is_not_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    options = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    verbs = re.findall(r"`sparsteer ([a-z]+(?: [a-z]+)?)", text)
    assert verbs or "`sparsteer" not in text
    for verb in verbs:
        assert find_verb(verb.split(), VERBS)[0], verb
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--help", "--config"}:
        assert re.search(rf"{flag}(?![\w-])", options), flag
    for name in re.findall(r"(?<![\w/.])sparsteer\.([A-Za-z_]+)", text):
        assert name in sparsteer.__all__, name


def test_the_skill_begins_with_what_an_agent_chooses_it_by() -> None:
    _, front, body = AGENTS[1].read_text(encoding="utf-8").split("---\n", 2)
    said = yaml.safe_load(front)
    assert set(said) == {"name", "description"} and said["name"] == AGENTS[1].parent.name
    assert len(said["description"]) < 1024 and body.lstrip().startswith("# ")


def test_the_skill_calls_python_as_it_can_be_called() -> None:
    (code,) = (text for kind, text in fenced(AGENTS[1]) if kind == "python")
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    checked: set[str] = set()
    for call in calls:
        name = ast.unparse(call.func).removeprefix("sparsteer.")
        if name in sparsteer.__all__:
            keywords = {word.arg: None for word in call.keywords if word.arg}
            inspect.signature(getattr(sparsteer, name)).bind(*call.args, **keywords)
            checked.add(name)
    assert {"train", "TrainConfig", "generate", "find_features"} <= checked


def test_llms_txt_has_the_form_of_llmstxt_org() -> None:
    lines = AGENTS[0].read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ") and lines[2].startswith("> ")
    start = lines.index("## Train")
    assert all(re.match(r"(## |- \[.+\]\(.+\)|$)", line) for line in lines[start:])


def test_what_counts_as_a_command() -> None:
    assert words_of("sparsteer doctor --json | jq .ok  # a comment") == ["doctor", "--json"]
    assert words_of("sparsteer eval 'my run' > out.txt") == ["eval", "my run"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
