"""The command `sparsteer`: its verbs, and what becomes of their results and errors.

Exit status: 0 done, 1 failed while running, 2 the input is wrong. An error is one sentence on
standard error; SPARSTEER_DEBUG=1 puts the traceback before it.
"""

import contextlib
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Collection, Generator, Mapping, Sequence
from importlib.metadata import version
from types import FrameType
from typing import Any, NoReturn, TypeVar

from ..app.browser.config import ServeConfig
from ..app.demo.config import DemoConfig
from ..app.publish.config import PublishConfig
from ..app.sharing.config import ShareConfig
from ..sae.common.errors import InputError
from ..sae.common.files import nearest
from ..sae.common.text import error_sentence
from ..steering.config import GenerateConfig
from ..steering.evaluation.calibrate_config import CalibrateConfig
from ..steering.features.config import (
    TAKEN_BY_ACTION,
    BuildConfig,
    ListConfig,
    PickConfig,
    SearchConfig,
    ShowConfig,
)
from ..steering.features.find_config import FindConfig
from ..steering.features.shared_config import SharedConfig
from ..steering.fitting.config import FitConfig
from ..steering.labels.config import LabelConfig
from ..steering.recognition.config import QuizConfig, QuizScoreConfig
from ..steering.selection.config import ExplainConfig, ScoreConfig, SelectConfig
from ..steering.study.config import StudyConfig
from ..steering.trace.config import TraceConfig
from ..steering.widths.config import WidthsConfig
from ..training.distributed.torchrun import is_main_process, is_reported_by_main_process
from ..training.evaluation.perplexity_l0_config import PerplexityL0Config
from ..training.evaluation.site.site_check_config import SiteCheckConfig
from ..training.runtime.threads import default_threads, use_threads
from . import (
    cache,
    calibrate,
    completion,
    demo,
    doctor,
    evaluate,
    export,
    feature_find,
    feature_search,
    feature_shared,
    features,
    fetch,
    generate,
    importing,
    l0,
    label,
    pick,
    publish,
    quiz,
    selection,
    serve,
    share,
    site,
    steer,
    steer_trace,
    study,
    synthetic,
    train,
    verify,
    widths,
)
from .arguments import Verb, parse, wants_help, with_flag
from .console import Report, Terminal, print_json, write_report
from .failures import exit_status, sentence
from .help import show_help

C = TypeVar("C")

VERBS: dict[str, Verb[Any]] = {
    "doctor": Verb(config=doctor.DoctorOptions, run=doctor.run),
    "fetch": Verb(config=fetch.FetchOptions, run=fetch.run, positional=("name",)),
    "site check": Verb(config=SiteCheckConfig, run=site.check, computes=True),
    "cache": Verb(
        config=cache.CacheOptions, run=cache.run, computes=True, resumes="from the last whole shard"
    ),
    "cache info": Verb(config=cache.FolderOptions, run=cache.info, positional=("folder",)),
    "cache verify": Verb(config=cache.FolderOptions, run=cache.verify, positional=("folder",)),
    "train": Verb(
        config=train.TrainOptions, run=train.run, computes=True, resumes="from the last checkpoint"
    ),
    "eval": Verb(config=evaluate.EvalOptions, run=evaluate.run, computes=True, positional=("sae",)),
    "synthetic eval": Verb(
        config=synthetic.SyntheticOptions,
        run=synthetic.run,
        computes=True,
        resumes="with the next seed, if it has --out",
    ),
    "l0": Verb(config=PerplexityL0Config, run=l0.run, computes=True, positional=("sae",)),
    "import": Verb(
        config=importing.ImportOptions, run=importing.run, computes=True, positional=("source",)
    ),
    "export": Verb(
        config=export.ExportOptions,
        run=export.run,
        computes=True,
        positional=("sae",),
        old_names={"layout": "format"},
    ),
    "publish": Verb(config=PublishConfig, run=publish.run, positional=("run",)),
    "demo": Verb(config=DemoConfig, run=demo.run, computes=True, resumes="from where it was"),
    "features build": Verb(
        config=BuildConfig, run=features.build, computes=True, positional=("run",)
    ),
    "features show": Verb(config=ShowConfig, run=features.show, positional=("run", "feature")),
    "features list": Verb(config=ListConfig, run=features.list_all, positional=("run",)),
    "features search": Verb(
        config=SearchConfig,
        run=feature_search.run,
        computes=True,
        positional=("run",),
        old_names={"promotes": "logit"},
    ),
    "features find": Verb(
        config=FindConfig, run=feature_find.run, computes=True, positional=("run",)
    ),
    "features shared": Verb(
        config=SharedConfig, run=feature_shared.run, positional=("run", "feature")
    ),
    "features label": Verb(
        config=LabelConfig,
        run=label.run,
        computes=True,
        positional=("run",),
        resumes="with the next feature",
    ),
    "features quiz": Verb(config=QuizConfig, run=quiz.make, positional=("run",)),
    "features quiz-score": Verb(
        config=QuizScoreConfig,
        run=quiz.score,
        positional=("quiz",),
        resumes="with the next question",
    ),
    "features export": Verb(config=ShareConfig, run=share.run, positional=("run",)),
    "pick": Verb(
        config=PickConfig,
        run=pick.run,
        positional=("run", "action", "feature"),
        actions=TAKEN_BY_ACTION,
        action_help=pick.ACTION_HELP,
    ),
    "generate": Verb(config=GenerateConfig, run=generate.run, computes=True, positional=("run",)),
    "steer fit": Verb(config=FitConfig, run=steer.fit, computes=True, positional=("method",)),
    "steer calibrate": Verb(
        config=CalibrateConfig, run=calibrate.run, computes=True, positional=("intervention",)
    ),
    "steer trace": Verb(
        config=TraceConfig, run=steer_trace.run, computes=True, positional=("intervention",)
    ),
    "steer eval": Verb(
        config=study.ConceptStudyConfig,
        run=study.concept,
        computes=True,
        positional=("run",),
        resumes="from the last batch of continuations",
    ),
    "detox eval": Verb(
        config=StudyConfig,
        run=study.detox,
        computes=True,
        positional=("run",),
        resumes="from the last batch of continuations",
    ),
    "detox widths": Verb(
        config=WidthsConfig,
        run=widths.run,
        computes=True,
        positional=("runs",),
        resumes="from the last batch of continuations",
    ),
    "score": Verb(
        config=ScoreConfig,
        run=selection.score,
        computes=True,
        positional=("file",),
        resumes="from the last saved rows",
    ),
    "select": Verb(config=SelectConfig, run=selection.select, positional=("file",)),
    "explain": Verb(
        config=ExplainConfig, run=selection.explain, computes=True, positional=("file",)
    ),
    "serve": Verb(config=ServeConfig, run=serve.run, computes=True, positional=("run",)),
    "verify": Verb(config=verify.VerifyOptions, run=verify.run, positional=("path",)),
}
"""Every verb; one of two words, such as "features build", is written so."""
VERBS["completion"] = completion.verb(VERBS)

_SECONDS_TO_SPEAK = 1.0
"""Left to the first process of several: once one has ended, torchrun ends the others."""

# What the libraries below say by themselves: read when they are imported, so set before.
_QUIET_LIBRARIES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command with the words after its name (by default the process's), give its status."""
    words = sys.argv[1:] if words is None else list(words)
    try:
        with _interrupt_on_terminate(), _quiet(), _encodable_output():
            return _run(words)
    except BrokenPipeError:
        # Whoever read standard output is gone; nothing may be flushed into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as interrupt:
        return _fail(1, str(interrupt) or _interrupted(words), interrupt)
    except Exception as error:
        return _fail(exit_status(error), sentence(error, _options(words)), error)


def _run(words: Sequence[str]) -> int:
    if words and words[0] == "help":
        words = [*words[1:], "--help"]
    if not words or words[0] in ("--help", "-h"):
        _show_verbs(VERBS)
        return 0
    group = {name: verb for name, verb in VERBS.items() if name.startswith(f"{words[0]} ")}
    if group and words[0] not in VERBS and words[1:] in (["--help"], ["-h"]):
        _show_verbs(group, words[0])
        return 0
    if words[0] == "--version":
        print(f"sparsteer {version('sparsteer')}")
        return 0
    name, rest = find_verb(words, VERBS)
    prog, verb = f"sparsteer {name}", VERBS[name]
    if wants_help(rest):
        show_help(prog, verb, rest)
        if group and name == words[0]:
            print("\nbeside it:")
            _list(group)
        return 0
    config, common = parse(prog, verb, rest)
    speaks = is_main_process()
    threads = use_threads(default_threads()) if verb.computes else contextlib.nullcontext()
    # What goes on after the report computes, too.
    with threads:
        # A library that prints must not get into what a program reads from standard output.
        with contextlib.redirect_stdout(sys.stderr):
            terminal = Terminal(quiet=not speaks)
            report = _ran(verb, config, terminal)
        try:
            if speaks:
                _print(report, terminal, as_json=common.json)
            if report.then is not None:
                with contextlib.redirect_stdout(sys.stderr):
                    report.then()
        except KeyboardInterrupt:
            if report.then is None:
                raise
    return report.status


def _print(report: Report, terminal: Terminal, *, as_json: bool) -> None:
    if as_json:
        print_json(report.values, one_line=report.then is not None)
    else:
        write_report(report)
    for warning in report.warnings:
        terminal.say(f"warning: {warning}")
    if report.status:
        _say_error(report.error)


def _ran(verb: Verb[C], config: C, terminal: Terminal) -> Report:
    """Run the verb; a value that only the files show to be wrong is called by its flag too."""
    try:
        return verb.run(config, terminal)
    except InputError as error:
        error.args = (with_flag(error, verb.options()),)
        raise


def find_verb(words: Sequence[str], verbs: Mapping[str, object]) -> tuple[str, Sequence[str]]:
    """The verb that the words begin with, of one or two words, and the words behind it.

    Raises:
        InputError: there is no such verb; the message names the nearest.
    """
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in verbs:
            _refuse_mistyped(name, words[length:], verbs)
            return name, words[length:]
    if words[0].startswith("-"):
        raise InputError(f"{words[0]} stands before the verb; write sparsteer VERB {words[0]}")
    group = [verb for verb in verbs if verb.split()[0] == words[0]]
    if group:
        raise InputError(f"{words[0]} needs one more word: {' or '.join(sorted(group))}")
    near = nearest(words[0], verbs)
    remedy = f"perhaps you meant {near[0]}" if near else "sparsteer --help lists them"
    raise InputError(f"there is no verb {words[0]!r}; {remedy}")


def _refuse_mistyped(name: str, rest: Sequence[str], verbs: Mapping[str, object]) -> None:
    """A word behind a verb that has verbs of two words beside it is one of those, mistyped."""
    beside = [verb for verb in verbs if verb.startswith(f"{name} ")]
    if beside and rest and not rest[0].startswith("-"):
        raise InputError(
            f"there is no verb '{name} {rest[0]}'; write {' or '.join(beside)}, or {name} --help"
        )


def _list(verbs: Mapping[str, Verb[Any]]) -> None:
    width = max(map(len, verbs))
    for name, verb in verbs.items():
        print(f"  {name:{width}}  {verb.summary}")


def _show_verbs(verbs: Mapping[str, Verb[Any]], group: str = "") -> None:
    """What the command, or the group of verbs of that first word, can do."""
    if group:
        seconds = ",".join(name.split()[1] for name in verbs)
        print(f"usage: sparsteer {group} {{{seconds}}} [OPTIONS]\n")
    else:
        print("usage: sparsteer VERB [OPTIONS]\n")
        print("Train sparse autoencoders on language models, and use what they find.\n")
    _list(verbs)
    print("\nsparsteer VERB --help shows the options of a verb, sparsteer --version the version.")


def _interrupted(words: Sequence[str]) -> str:
    with contextlib.suppress(InputError, IndexError):
        resumes = VERBS[find_verb(words, VERBS)[0]].resumes
        if resumes:
            return f"interrupted; the same command goes on {resumes}"
    return "interrupted"


def _options(words: Sequence[str]) -> Collection[str]:
    """The options of the verb that the words begin with; none if there is no such verb."""
    with contextlib.suppress(InputError, IndexError):
        return VERBS[find_verb(words, VERBS)[0]].options()
    return ()


def _fail(status: int, message: str, error: BaseException) -> int:
    if is_reported_by_main_process(error):
        time.sleep(_SECONDS_TO_SPEAK)
        return status
    if os.environ.get("SPARSTEER_DEBUG") == "1":
        traceback.print_exc()
    _say_error(message)
    return status


def _say_error(message: str) -> None:
    print(f"error: {error_sentence(message)}", file=sys.stderr)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep the libraries' progress bars and warnings off the screen."""
    added = {name: value for name, value in _QUIET_LIBRARIES.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with warnings.catch_warnings():
            if os.environ.get("SPARSTEER_DEBUG") != "1":
                warnings.simplefilter("ignore")
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _encodable_output() -> Generator[None]:
    """Let standard output and error write out what their encoding lacks instead of failing."""
    streams: list[Any] = [sys.stdout, sys.stderr]  # a test or a library may have put others there
    changed = [(stream, stream.errors) for stream in streams if hasattr(stream, "reconfigure")]
    for stream, _ in changed:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in changed:
            stream.reconfigure(errors=errors)


@contextlib.contextmanager
def _interrupt_on_terminate() -> Generator[None]:
    """SIGTERM ends the work as Ctrl-C does, so that a scheduler leaves whole files only."""
    before = signal.signal(signal.SIGTERM, _raise_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
