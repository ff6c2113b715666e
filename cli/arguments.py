"""From the words of a command line to a configuration, on the dataclasses of the Python API.

tyro writes the help and turns words into values. What goes wrong around that is found here first,
so that every wrong input is answered with one sentence that names the right flag.
"""

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast, get_type_hints

import tyro

from ..sae.common.errors import InputError
from ..sae.common.files import nearest
from ..sae.common.paths import expanded_path, require_utf8
from .console import Report, Terminal
from .options import CommonOptions, Option, options_of
from .recipe import read_recipe

C = TypeVar("C")

_INTEGER = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")
_MOST_DIGITS = 100


@dataclass(frozen=True, kw_only=True)
class Verb(Generic[C]):
    """One verb of the command: the configuration that it reads, and the function that it calls."""

    config: type[C]
    """Dataclass whose fields are the flags; a nested dataclass adds its own fields."""

    run: Callable[[C, Terminal], Report]
    """Does the work; the first line of its docstring stands in the list of verbs."""

    positional: tuple[str, ...] = ()
    """Fields that are given without a flag, in order."""

    actions: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """The fields that go with each choice of `action`, where the verb has such a field; those that
    come before it go with all."""

    action_help: Mapping[str, str] = field(default_factory=dict[str, str])
    """What each choice of `action` does, for the help of that action alone."""

    computes: bool = False
    """Whether torch computes in it, with the command's number of threads."""

    resumes: str = ""
    """What a person reads after an interruption, if the same command goes on."""

    old_names: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names that options had before, still read but not shown, and their names of today."""

    @property
    def summary(self) -> str:
        """The first line of the docstring of `run`."""
        return (self.run.__doc__ or "").strip().splitlines()[0]

    def options(self) -> dict[str, Option]:
        """Every option by its name on the command line, those that all verbs have at the end."""
        return options_of(self.config, self.positional) | options_of(CommonOptions)


@dataclass(frozen=True)
class ParsedFlag:
    """The words that were given for one option."""

    words: list[str]
    source: str = ""
    """Where they were read, for an error: empty for the command line."""


def parse(prog: str, verb: Verb[C], words: Sequence[str]) -> tuple[C, CommonOptions]:
    """Read the words after the verb, and the recipe they name.

    Raises:
        InputError: one sentence about the first thing that is wrong.
    """
    options = verb.options()
    given = _split(prog, options, [_renamed(word, verb.old_names) for word in words])
    if "config" in given:
        (path,) = _checked(options["config"], given["config"]).words
        of_recipe = {name: o for name, o in options.items() if name not in ("config", "json")}
        for name, values in read_recipe(path, of_recipe).items():
            given.setdefault(name, ParsedFlag(values, f" in {path}"))
    missing = [o for name, o in options.items() if o.required and name not in given]
    if missing:
        names = " and ".join(option.shown for option in missing)
        verb_form = "is" if len(missing) == 1 else "are"
        raise InputError(f"{names} {verb_form} missing; write {_usage(prog, missing)}")
    values = _typed(options, given)
    return _built(verb.config, values, options), _built(CommonOptions, values, options)


def with_flag(error: InputError, options: Mapping[str, Option]) -> str:
    """What the error says, with the setting that is wrong called by its option where the message
    begins with it: `k is 0` as `--k is 0`."""
    name, _, rest = str(error).partition(" ")
    option = options.get(name.replace("_", "-")) if name == error.field else None
    return f"{option.shown} {rest}" if option else str(error)


def wants_help(words: Sequence[str]) -> bool:
    """Whether the words ask for help, before a `--` that ends the options."""
    before = list(words[: words.index("--")]) if "--" in words else words
    return "--help" in before or "-h" in before


def values_without_flag(options: Mapping[str, Option], words: Sequence[str]) -> list[str]:
    """The words before a `--` that are neither flags nor the values of one, right or wrong."""
    values: list[str] = []
    flag: Option | None = None
    for word in words:
        if word == "--":
            break
        if _is_flag(word):
            flag = options.get(word.removeprefix("--").replace("_", "-"))
            flag = None if flag is None or flag.is_switch else flag
        elif flag is None:
            values.append(word)
        elif not flag.is_list:
            flag = None
    return values


def _split(prog: str, options: dict[str, Option], words: Sequence[str]) -> dict[str, ParsedFlag]:
    """Sort the words by option. A list may also be repeated; of other options the last counts."""
    given: dict[str, ParsedFlag] = {}
    places = [option for option in options.values() if option.positional]
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            for value in left:
                _place(prog, places, given, value)
            break
        if not _is_flag(word):
            _place(prog, places, given, word)
            continue
        name, values = _one_flag(prog, options, word, left)
        if options[name].is_list and name in given and not options[name].is_mixture:
            values = given[name].words + values
        given[name] = ParsedFlag(values)
    return given


def _renamed(word: str, old_names: Mapping[str, str]) -> str:
    """The word, with the option of today where it is one by its old name."""
    flag, equals, value = word.partition("=")
    new = old_names.get(flag.removeprefix("--")) if flag.startswith("--") else None
    return f"--{new}{equals}{value}" if new else word


def _place(prog: str, places: list[Option], given: dict[str, ParsedFlag], value: str) -> None:
    """Give the value to the next place; a list is the last place, and takes all that come."""
    if not places:
        raise InputError(f"unexpected argument {value!r} for {prog}; see {prog} --help")
    option = places[0] if places[0].is_list else places.pop(0)
    name = option.name.replace("_", "-")
    before = given[name].words if name in given else []
    given[name] = ParsedFlag([*before, value])


def _one_flag(
    prog: str, options: dict[str, Option], word: str, left: list[str]
) -> tuple[str, list[str]]:
    """The option that the word names and its values, taken from the words `left` of the line."""
    flag, equals, attached = word.partition("=")
    name = flag.removeprefix("--").replace("_", "-")
    flags = {n: option for n, option in options.items() if not option.positional}
    off = name.removeprefix("no-")
    if name not in flags and name.startswith("no-") and off in flags and flags[off].is_switch:
        _require_no_value(flag, equals)
        return off, ["False"]
    if name not in flags or not flag.startswith("--"):
        near = nearest(name, flags)
        remedy = f"perhaps you meant --{near[0]}" if near else f"see {prog} --help"
        raise InputError(f"unrecognized option {flag} for {prog}; {remedy}")
    option = flags[name]
    if option.is_switch:
        _require_no_value(flag, equals)
        return name, ["True"]
    values = [attached] if equals else []
    while left and not _is_flag(left[0]) and left[0] != "--" and (option.is_list or not values):
        values.append(left.pop(0))
    if not values:
        raise InputError(f"{option.shown} has no value; write {option.shown} {option.metavar}")
    return name, values


def _require_no_value(flag: str, equals: str) -> None:
    if equals:
        raise InputError(f"{flag} takes no value; write {flag} or --no-{flag.removeprefix('--')}")


def _is_flag(word: str) -> bool:
    """Whether a word is a flag; negative numbers (also -inf) and a lone dash are values."""
    if not word.startswith("-") or not word.lstrip("-")[:1].isalpha():
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def _usage(prog: str, missing: list[Option]) -> str:
    words = [o.shown if o.positional else f"{o.shown} {o.metavar}" for o in missing]
    return f"`{prog} ... {' '.join(words)}`"


def _typed(options: dict[str, Option], given: dict[str, ParsedFlag]) -> dict[str, Any]:
    """The values of the given options, by the names of their fields."""
    given = {name: _checked(options[name], words) for name, words in given.items()}
    try:
        return _through_tyro({options[name]: words for name, words in given.items()})
    except ValueError:
        for name, words in given.items():
            _explain(options[name], words)
        raise


def _checked(option: Option, given: ParsedFlag) -> ParsedFlag:
    """The words of the option, with `~` of a path expanded.

    Raises:
        InputError: they are no text, or no number or path where one is needed.
    """
    name = f"{option.shown}{given.source}"
    for word in given.words:
        if not option.may_be_any_text:
            require_utf8(name, word)
        _require_number(option, name, word)
    if not option.is_path:
        return given
    return ParsedFlag([expanded_path(name, word) for word in given.words], given.source)


def _require_number(option: Option, name: str, word: str) -> None:
    """Raise an InputError if Python would take the word for a number that nobody meant to write,
    such as one with spaces or in digits of other scripts, or an integer that no tensor holds."""
    if not option.is_number:
        return
    if not word.isascii() or word != word.strip():
        raise InputError(f"{name} is {word!r}, but must be {option.expected} in plain digits")
    if option.is_integer and _INTEGER.fullmatch(word):
        # More digits than these are a number that Python itself refuses to read.
        if len(word) > _MOST_DIGITS or not -(2**63) <= int(word) < 2**63:
            raise InputError(f"{name} is {word}, but must lie between -2^63 and 2^63 - 1")


def _explain(option: Option, given: ParsedFlag) -> None:
    """Raise the InputError for the option's words if they are what is wrong."""
    try:
        _through_tyro({option: given})
    except ValueError:
        found = " ".join(given.words)
        near = nearest(found, option.choices)
        hint = f"; perhaps you meant {near[0]}" if near else ""
        raise InputError(
            f"{option.shown}{given.source} is {found!r}, but must be {option.expected}{hint}"
        ) from None


def _through_tyro(given: dict[Option, ParsedFlag]) -> dict[str, Any]:
    """Let tyro convert the words of each option; a ValueError without text where it cannot."""
    fields = [(o.name, tyro.conf.UseAppendAction[o.type] if o.is_list else o.type) for o in given]
    # Joined by =, a value may begin with a dash.
    words = [
        f"--{option.name.replace('_', '-')}={value}"
        for option, values in given.items()
        for value in values.words
    ]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            parsed: object = tyro.cli(
                cast(type[object], dataclasses.make_dataclass("Options", fields, kw_only=True)),
                prog="",
                args=words,
                add_help=False,
            )
    except SystemExit:
        raise ValueError from None
    return vars(parsed)


def _built(config: type[C], values: dict[str, Any], options: dict[str, Option]) -> C:
    """The dataclass from the values, nested ones first; its own checks name the flag."""
    arguments: dict[str, Any] = {}
    try:
        for name, kind in get_type_hints(config).items():
            if dataclasses.is_dataclass(kind):
                arguments[name] = _built(cast(type[Any], kind), values, options)
            elif name in values:
                arguments[name] = options[name.replace("_", "-")].value(values[name])
        return config(**arguments)
    except InputError as error:
        raise InputError(with_flag(error, options), field=error.field) from None
