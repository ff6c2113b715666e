"""The scripts of `completion`, run by the shells: what is offered, and nothing is evaluated."""

import contextlib
import os
import pty
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from sparsteer.cli.completion import Shell, completion_script
from sparsteer.cli.main import VERBS

from .conftest import Sparsteer

HOSTILE = (
    "$(touch bad)",
    "`touch bad`",
    "'; touch bad; '",
    '"$(touch bad)',
    "*",
    "a[$(touch bad)]",
)


def split(line: str) -> list[str]:
    """The words of a line as bash gives them, in which = and : stand alone; the last is in hand."""
    words = [part for word in line.split(" ") for part in re.split(r"([=:]+)", word) if part]
    return [*words, ""] if line.endswith(" ") else words


def replies(lines: Sequence[str | list[str]], folder: Path) -> list[list[str]]:
    """What bash offers for each line, by the function that it calls."""
    asked = "".join(
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _sparsteer\n"
        'printf "%s " "${COMPREPLY[@]}"; echo\n'
        for words in (split(line) if isinstance(line, str) else line for line in lines)
    )
    script = f"{completion_script('bash', VERBS)}\n{asked}"
    done = subprocess.run(
        ["bash", "--norc", "-s"], input=script, capture_output=True, text=True, cwd=folder
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split() for line in done.stdout.splitlines()]


def offers(shell: Sequence[str], script: str, words: Sequence[str]) -> list[str]:
    """What the function that all three scripts share prints for the words, in a shell."""
    code = f'{script}\n_sparsteer_offers "$@"'
    return subprocess.run(
        [*shell, "-c", code, "sparsteer", *words], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_verbs_options_and_choices(tmp_path: Path) -> None:
    cases = {
        "sparsteer tr": ["train"],
        "sparsteer --v": ["--version"],
        "sparsteer features ": [
            "build",
            "show",
            "list",
            "shared",
            "search",
            "find",
            "label",
            "export",
            "quiz",
            "quiz-score",
            "--help",
        ],
        "sparsteer features l": ["list", "label"],
        "sparsteer cache v": ["verify"],
        "sparsteer cache verify --j": ["--json"],
        "sparsteer cache --mod": ["--model", "--model-dtype"],
        "sparsteer help fea": ["features"],
        "sparsteer train --activation ": ["topk", "batch_topk", "top_afa", "jumprelu"],
        "sparsteer train --cache c --activation to": ["topk", "top_afa"],
        "sparsteer train --activation=": ["topk", "batch_topk", "top_afa", "jumprelu"],
        "sparsteer train --activation=ju": ["jumprelu"],
        "sparsteer train --activation=topk --out r --pre": ["--precision", "--prefixes"],
        "sparsteer train --lr 1e-3 --precision b": ["bfloat16"],
        "sparsteer train --lr -1 --precision b": ["bfloat16"],
        "sparsteer pick --strength -inf runs/k a": ["add"],
        "sparsteer pick --strength -.5 runs/k a": ["add"],
        "sparsteer pick --strength -3 runs/k a": ["add"],
        "sparsteer train --site a b c --precision b": ["bfloat16"],
        "sparsteer train --out runs:x --precision b": ["bfloat16"],
        "sparsteer pick runs/k ": ["add", "remove", "list", "undo"],
        "sparsteer pick --json runs/k a": ["add"],
        "sparsteer pick --label x runs:k=2 r": ["remove"],
        "sparsteer pick runs/k add 3 4 --la": ["--label"],
        "sparsteer pick runs/k add 3 ": [],
        "sparsteer features show runs/k 3 --e": ["--examples"],
        "sparsteer features list runs/k --by d": ["density"],
        "sparsteer fetch n": ["news"],
        "sparsteer completion ": ["bash", "zsh", "fish"],
        "sparsteer eval -- --": [],
        "sparsteer trian --": [],
        "sparsteer train --tokens ": [],
        "sparsteer train --cache ": [],
    }
    found = dict(zip(cases, replies(list(cases), tmp_path), strict=True))
    assert {line: sorted(words) for line, words in found.items()} == {
        line: sorted(words) for line, words in cases.items()
    }


def test_every_verb_has_its_options_and_their_choices(tmp_path: Path) -> None:
    expected: dict[str, list[str]] = {}
    for name, verb in VERBS.items():
        options = verb.options().values()
        flags = [option.shown for option in options if not option.positional]
        expected[f"sparsteer {name} -"] = [*flags, "--help"]
        for option in options:
            if option.choices and not option.positional:
                expected[f"sparsteer {name} {option.shown} "] = list(option.choices)
                expected[f"sparsteer {name} {option.shown}="] = list(option.choices)
    found = replies(list(expected), tmp_path)
    assert dict(zip(expected, found, strict=True)) == expected


def test_words_of_the_line_are_not_evaluated(tmp_path: Path) -> None:
    for hostile in HOSTILE:
        lines = [
            ["sparsteer", *before, hostile, *after]
            for before in ((), ("eval",), ("train", "--out"), ("pick", "runs/k", "add"))
            for after in ((), ("",), ("-",), ("--json", "x"))
        ]
        replies(lines, tmp_path)
    assert list(tmp_path.iterdir()) == []


def fish_function() -> str:
    """What the script for fish gives sh to run, as fish reads it between single quotes."""
    match = re.search(r"sh -c '((?:[^'\\]|\\.)*)' \$given", completion_script("fish", VERBS), re.S)
    assert match
    return re.sub(r"\\([\\'])", r"\1", match[1])


@pytest.mark.parametrize("words", [("train", "--precision", ""), ("features", ""), ("eval", "")])
def test_all_shells_ask_the_same_function(words: tuple[str, ...]) -> None:
    bash = offers(["bash"], completion_script("bash", VERBS), words)
    assert bash
    function = fish_function().split('_sparsteer_offers "$@"')[0]
    assert offers(["sh"], function, words) == bash
    assert function.strip() in completion_script("zsh", VERBS)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_shell_can_read_its_script(shell: Shell, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(completion_script(shell, VERBS))
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_it_is_installed_as_its_shell_expects() -> None:
    assert completion_script("zsh", VERBS).startswith("#compdef sparsteer\n")
    assert "\n    compdef _sparsteer sparsteer\n" in completion_script("zsh", VERBS)
    assert "\ncomplete --command sparsteer " in completion_script("fish", VERBS)
    assert "\ncomplete -o default -F _sparsteer sparsteer\n" in completion_script("bash", VERBS)


@pytest.mark.parametrize("shell", get_args(Shell))
def test_the_verb_prints_the_script(sparsteer: Sparsteer, shell: Shell) -> None:
    done = sparsteer("completion", shell)
    assert (done.status, done.out, done.err) == (0, completion_script(shell, VERBS) + "\n", "")
    values = sparsteer("completion", shell, "--json").values
    assert values == {"shell": shell, "script": completion_script(shell, VERBS)}


def test_a_value_behind_an_equals_sign_that_is_part_of_the_word(tmp_path: Path) -> None:
    """As COMP_WORDBREAKS has it without =."""
    lines = [["sparsteer", "train", f"--precision={start}"] for start in ("b", "", "x")]
    found = replies(lines, tmp_path)
    assert found[0] == ["--precision=bfloat16"]
    names = ("auto", "bfloat16", "float32", "tf32")
    assert sorted(found[1]) == [f"--precision={name}" for name in names]
    assert found[2] == []


def typed(lines: Sequence[str], folder: Path) -> str:
    """What an interactive bash says to lines that a person types, Tab among them, in a folder where
    `sparsteer` prints its words."""
    (folder / ".script").write_text(
        f"{completion_script('bash', VERBS)}\nPS1= TMOUT=60\n"
        "bind 'set enable-bracketed-paste off'\n"
        "sparsteer() { printf '<%s>' \"$@\"; echo; }\n"
    )
    terminal, its_side = pty.openpty()
    process = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", ".script", "-i"],
        stdin=its_side,
        stdout=its_side,
        stderr=its_side,
        cwd=folder,
        start_new_session=True,
    )
    os.close(its_side)
    os.write(terminal, "".join(f"{line}\n" for line in (*lines, "exit")).encode())
    said = b""
    with contextlib.suppress(OSError):  # its end, when bash has ended
        while some := os.read(terminal, 4096):
            said += some
    os.close(terminal)
    process.wait(60)
    return said.decode().replace("\r\n", "\n")


def test_tab_completes_files_and_quotes_them(tmp_path: Path) -> None:
    (tmp_path / "my run").mkdir()
    (tmp_path / "$(touch bad)").touch()
    said = typed(
        [
            "sparsteer eval my\t",
            "sparsteer eval --ca\tmy\t --conte\t3",
            "sparsteer train --cache=my\t --act\tju\t",
            "sparsteer score '$(t\t",
            "sparsteer train --lr m\t",
            "sparsteer pick my\t ad\t3",
            "sparsteer generate my\t --threshold -inf --model-dt\tbf\t",
            "COMP_WORDBREAKS=${COMP_WORDBREAKS//=}",
            "sparsteer train --precision=bf\t --act\tju\t",
        ],
        tmp_path,
    )
    assert [line for line in said.splitlines() if line.startswith("<")] == [
        "<eval><my run/>",
        "<eval><--cache><my run/><--contexts><3>",
        "<train><--cache=my run/><--activation><jumprelu>",
        "<score><$(touch bad)>",
        "<train><--lr><m>",
        "<pick><my run/><add><3>",
        "<generate><my run/><--threshold><-inf><--model-dtype><bfloat16>",
        "<train><--precision=bfloat16><--activation><jumprelu>",
    ]
    assert not (tmp_path / "bad").exists()
