"""Dispatch, help, exit statuses, interruptions; nothing heavy is imported for it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest

from sparsteer.cli.arguments import Verb
from sparsteer.cli.console import Report, Terminal
from sparsteer.cli.fetch import FetchOptions
from sparsteer.cli.help import topics
from sparsteer.cli.main import VERBS, find_verb
from sparsteer.sae.common.errors import InputError

from .conftest import Sparsteer


def outcome(do: Callable[[], Any]) -> Verb[Any]:
    """A verb in the place of fetch that does something."""

    def run(options: FetchOptions, terminal: Terminal) -> Report:
        """Act."""
        print("a library talks")
        return Report(values={"done": do()}, shown=("done",))

    return Verb(config=FetchOptions, run=run, positional=("name",), resumes="from the middle")


@pytest.fixture
def acting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Let the verb fetch do something else."""
    return lambda do: monkeypatch.setitem(VERBS, "fetch", outcome(do))


def failing(error: BaseException) -> Callable[[], Any]:
    def do() -> Any:
        raise error

    return do


Acting = Callable[[Callable[[], Any]], None]


def test_the_result_alone_is_on_standard_output(sparsteer: Sparsteer, acting: Acting) -> None:
    acting(lambda: float("nan"))
    done = sparsteer("fetch", "news", "--json")
    assert (done.status, done.values, done.err) == (0, {"done": None}, "a library talks\n")
    assert sparsteer("fetch", "news").out == "done\n"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (InputError("x is 3; give 4"), 2, "error: x is 3; give 4"),
        (RuntimeError("two\nlines"), 1, "error: two (RuntimeError, unexpected; "),
        (OSError(28, "No space left on device"), 1, "error: no space left on the disk; free some"),
        (KeyboardInterrupt(), 1, "error: interrupted; the same command goes on from the middle"),
    ],
)
def test_an_error_is_one_sentence_and_a_status(
    sparsteer: Sparsteer, acting: Acting, error: BaseException, status: int, said: str
) -> None:
    acting(failing(error))
    for words in (["fetch", "news"], ["fetch", "news", "--json"]):
        done = sparsteer(*words)
        assert (done.status, done.out) == (status, "")
        talk, sentence = done.err.splitlines()
        assert talk == "a library talks"
        assert sentence.startswith(said)


def test_the_traceback_is_there_when_asked_for(
    sparsteer: Sparsteer, acting: Acting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSTEER_DEBUG", "1")
    acting(failing(RuntimeError("boom")))
    done = sparsteer("fetch", "news")
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("error: boom")


def test_terminating_is_interrupting(sparsteer: Sparsteer, acting: Acting) -> None:
    before = signal.getsignal(signal.SIGTERM)
    acting(lambda: signal.raise_signal(signal.SIGTERM))
    done = sparsteer("fetch", "news")
    assert done.status == 1
    assert "error: interrupted; the same command goes on from the middle" in done.err
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_environment_is_left_as_it_was(sparsteer: Sparsteer, acting: Acting) -> None:
    before = dict(os.environ)
    acting(lambda: os.environ["TQDM_DISABLE"])
    assert sparsteer("fetch", "news", "--json").values == {"done": "1"}
    assert dict(os.environ) == before


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_lists_every_verb(sparsteer: Sparsteer, words: tuple[str, ...]) -> None:
    done = sparsteer(*words)
    assert (done.status, done.err) == (0, "")
    for name, verb in VERBS.items():
        assert f"  {name}" in done.out
        assert verb.summary in done.out


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_shows_every_option(sparsteer: Sparsteer, name: str) -> None:
    done = sparsteer(name, "--no-such", "--help")
    assert (done.status, done.err) == (0, "")
    assert f"usage: sparsteer {name} " in done.out
    for option in VERBS[name].options().values():
        assert option.shown in done.out


def box(text: str, title: str) -> str:
    """The lines of the help's box of that title."""
    return text.split(f" {title} ─", 1)[1].split("╰", 1)[0]


def test_help_shows_options_by_topic(sparsteer: Sparsteer) -> None:
    text = sparsteer("train", "--help").out
    assert "--out" in box(text, "options") and "--lr" not in box(text, "options")
    for title, flags in {
        "data options": ("--cache", "--dataset", "--chunk-rows"),
        "sparsity options": ("--activation", "--k ", "--target-l0"),
        "optimizer options": ("--tokens", "--lr", "--clip-norm"),
        "run options": ("--grid", "--seed", "--checkpoint-every"),
        "common options": ("--config", "--json"),
    }.items():
        assert all(flag in box(text, title) for flag in flags), title


@pytest.mark.parametrize("name", VERBS)
def test_topics_have_every_option_once_and_required_ones_first(name: str) -> None:
    boxes = topics(VERBS[name].options())
    shown = [option.name for options in boxes.values() for option in options]
    assert sorted(shown) == sorted(option.name for option in VERBS[name].options().values())
    required = [option.required for options in boxes.values() for option in options]
    assert required == sorted(required, reverse=True)
    assert all(options for title, options in boxes.items() if title)


def test_an_option_has_the_same_topic_in_every_verb() -> None:
    """But where nothing is trained: a batch is then no matter of the optimizer."""
    found: dict[str, set[str]] = {}
    for verb in VERBS.values():
        boxes = topics(verb.options())
        if len(boxes) > 2:
            for topic, options in boxes.items():
                for option in options:
                    if not option.required:
                        found.setdefault(option.shown, set()).add(topic)
    assert found["--skip-bad-rows"] == found["--text-field"] == {"data"}
    assert found["--seed"] == found["--device"] == found["--dry-run"] == {"run"}
    of_cache = topics(VERBS["cache"].options())
    assert "--batch-size" in [option.shown for option in of_cache["run"]]
    # What would be alone in its topic stands in the first box.
    several = {flag for flag, names in found.items() if len(names - {""}) > 1}
    assert several == {"--batch-size", "--tokens"}


def test_help_says_what_may_be_left_out(sparsteer: Sparsteer) -> None:
    text = sparsteer("fetch", "--help").out
    assert "usage: sparsteer fetch [-h] [NAME] [--list]" in text
    assert "--no-list" not in text and "--no-json" not in text


@pytest.mark.parametrize(
    ("action", "usage", "others"),
    [
        ("add", "add [-h] [OPTIONS] FEATURE [FEATURE ...]", ()),
        ("remove", "remove [-h] FEATURE [FEATURE ...] [--config PATH]", ("--label", "--strength")),
        ("list", "list [-h] [--config PATH] [--json]", ("FEATURE [", "--label", "--strength")),
    ],
)
def test_help_of_an_action(
    sparsteer: Sparsteer, action: str, usage: str, others: tuple[str, ...]
) -> None:
    for words in (
        ("pick", action),
        ("pick", "runs/topk", action),
        ("pick", "runs/topk", action, 3),
    ):
        text = sparsteer(*words, "--help").out
        assert f"usage: sparsteer pick RUN {usage}" in " ".join(text.split())
        assert not any(other in text.split("╭", 1)[1] for other in others)
    assert sparsteer("help", "pick", action).out == text


def test_help_of_an_action_is_of_the_word_in_its_place(sparsteer: Sparsteer) -> None:
    def text(*words: str) -> str:
        return " ".join(sparsteer("pick", *words, "--help").out.split())

    add, listing = text("add"), text("list")
    assert "List the picked features" in listing
    assert not any(word in listing for word in ("Add ", "Remove", "FEATURE", "--strength"))
    assert "Add features" in add and "List" not in add
    for words in (
        ("RUN", "--label", "list", "add"),
        ("--label", "list", "add"),
        ("--label=list", "RUN", "add", "3"),
        ("--json", "list", "add"),
        ("--strength", "-inf", "list", "add"),
        ("RUN", "add", "3", "--note", "list"),
    ):
        assert text(*words) == add
    assert text("RUN", "--label", "list") == text()


def test_version(sparsteer: Sparsteer) -> None:
    assert sparsteer("--version").out == f"sparsteer {version('sparsteer')}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "there is no verb 'trian'; perhaps you meant train"),
        (["zzz"], "there is no verb 'zzz'; sparsteer --help lists them"),
        (["--json", "train"], "--json stands before the verb; write sparsteer VERB --json"),
        (
            ["cache", "--token", "5"],
            "unrecognized option --token for sparsteer cache; perhaps",
        ),
        (["cache", "--model", "m"], "--dataset and --out are missing; write `sparsteer cache"),
        (
            ["train", "--cache", "c", "--out", "r", "--tokens", "many"],
            "--tokens is 'many', but",
        ),
        (["train", "--cache", "c", "--out", "r", "--tokens", "0"], "--tokens is 0, but must be"),
        (
            ["train", "--cache", "c", "--out", "r", "--activation", "topkk"],
            "you meant topk",
        ),
        (["eval", "--cache", "c"], "SAE is missing; write `sparsteer eval ... SAE`"),
    ],
)
def test_wrong_words_have_status_2(sparsteer: Sparsteer, words: list[str], sentence: str) -> None:
    done = sparsteer(*words)
    assert done.status == 2
    assert sentence in done.error


def test_help_of_a_group_lists_its_verbs(sparsteer: Sparsteer) -> None:
    done = sparsteer("features", "--help")
    assert done.status == 0
    assert all(name in done.out for name in VERBS if name.startswith("features "))
    assert "doctor" not in done.out
    assert done.out.startswith("usage: sparsteer features {build,")


def test_help_as_a_verb(sparsteer: Sparsteer) -> None:
    for words in ((), ("train",), ("features",), ("features", "show")):
        assert sparsteer("help", *words).out == sparsteer(*words, "--help").out
    assert "there is no verb 'trian'; perhaps you meant train" in sparsteer("help", "trian").error


def test_verbs_of_two_words() -> None:
    verbs = {"features build": 1, "features show": 2, "pick": 3}
    assert find_verb(["features", "show", "7"], verbs) == ("features show", ["7"])
    assert find_verb(["pick", "features"], verbs) == ("pick", ["features"])
    with pytest.raises(InputError, match="needs one more word: features build or features show"):
        find_verb(["features", "--help"], verbs)


def in_another_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_help_and_parsing_import_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "transformers", "transformer_lens", "datasets", "wandb")
    code = f"""
import sys
from sparsteer.cli.arguments import parse
from sparsteer.cli.main import VERBS, main
assert main(["--help"]) == 0
assert all(main([*name.split(), "--help"]) == 0 for name in VERBS)
assert main(["completion", "bash"]) == 0
parse("sparsteer train", VERBS["train"], ["--cache", "c", "--out", "r", "--lr", "1e-3"])
print("HEAVY", *(name for name in {heavy} if name in sys.modules))
"""
    assert in_another_process(code).stdout.splitlines()[-1] == "HEAVY"


def test_help_is_quick() -> None:
    """The best of three, for other work may share the machine."""
    times: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "sparsteer.cli", "--help"], capture_output=True, check=True
        )
        times.append(time.perf_counter() - started)
    assert min(times) < 1


def test_a_closed_pipe_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsteer.cli", "fetch", "--list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert err == b""
    assert process.returncode == 1


def test_an_interruption_while_modules_are_loaded_is_one_sentence() -> None:
    code = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "sparsteer.cli.arguments":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from sparsteer.cli.entry import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: interrupted\n")


def test_output_in_any_encoding_and_to_nowhere() -> None:
    """Characters that the encoding lacks are written out, and closed output is no error."""
    code = """
import sys
from sparsteer.cli import main as module
from sparsteer.cli.arguments import Verb
from sparsteer.cli.console import Report
from sparsteer.cli.fetch import FetchOptions
def run(options, terminal):
    "Act."
    terminal.say("said ⏎")
    return Report(values={}, shown=("shown ⟦x⟧ é",))
module.VERBS["fetch"] = Verb(config=FetchOptions, run=run, positional=("name",))
from sparsteer.cli.entry import main
sys.argv = ["sparsteer", "fetch", "news"]
sys.exit(main())
"""
    for encoding in ("ascii", "cp1252"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode(encoding).startswith(r"shown \u27e6x\u27e7 ")
        assert done.stderr.decode(encoding) == "said \\u23ce\n"
    for closed in (">&-", ">&- 2>&-"):
        words = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == ("" if "2" in closed else "said ⏎\n")
