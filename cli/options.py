"""The options of a verb, read from the fields of its configuration."""

import ast
import dataclasses
import functools
import inspect
import textwrap
from dataclasses import dataclass
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from ..sae.common.mixtures import Mixture, joined
from ..sae.common.paths import AnyText, FilePath
from ..sae.common.registry import Registry


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """What every verb takes."""

    config: FilePath | None = None
    """YAML file of settings named like the flags; flags given beside it win."""

    json: bool = False
    """Print exactly one JSON object on standard output; everything else goes to standard error."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One field of a configuration, as the command line shows it."""

    name: str
    """Name of the field."""
    type: Any
    help: str
    """The docstring under the field, on one line."""
    default: Any
    """`dataclasses.MISSING` if the field has none."""
    positional: bool
    is_path: bool
    """Whether its values name files or folders."""
    is_mixture: bool
    """Whether it takes one data set or several, which are one text in the configuration."""
    may_be_any_text: bool
    """Whether its values need not be UTF-8."""

    @property
    def shown(self) -> str:
        """As the user writes it: --n-latents, --no-kv-cache for what is on by default, or SAE for
        one without a flag."""
        words = self.name.replace("_", "-")
        if self.is_switch and self.default is True:
            words = f"no-{words}"
        return words.upper() if self.positional else f"--{words}"

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def is_switch(self) -> bool:
        """Whether it takes no value."""
        return self.type is bool

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return get_origin(self.type) is tuple

    @property
    def choices(self) -> tuple[str, ...]:
        """The only values allowed; empty if it is not of that kind."""
        return get_args(self._plain) if get_origin(self._plain) is Literal else ()

    @property
    def is_integer(self) -> bool:
        return self._plain is int

    @property
    def is_number(self) -> bool:
        return self._plain in (int, float)

    @property
    def metavar(self) -> str:
        """What stands for the value in help."""
        if self.choices:
            return "{" + ",".join(self.choices) + "}"
        if self.positional:
            return f"{self.shown} [{self.shown} ...]" if self.is_list else self.shown
        word = {str: "TEXT", int: "N", float: "X"}.get(self._plain, "")
        word = "PATH" if self.is_path else word
        return f"{word} [{word} ...]" if self.is_list else word

    @property
    def expected(self) -> str:
        """What a right value is, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        return {int: "a whole number", float: "a number"}.get(self._plain, "text")

    @property
    def default_hint(self) -> str:
        """What help says behind the option; a default that means nothing says nothing."""
        if self.required:
            return "(required)"
        if self.default is None or self.default is False or self.default == ():
            return ""
        if isinstance(self.default, tuple):
            return f"(default: {' '.join(map(str, cast(tuple[Any, ...], self.default)))})"  # pyright: ignore[reportUnknownMemberType] - of any items
        is_long = isinstance(self.default, int) and self.default >= 10_000
        return f"(default: {self.default:_})" if is_long else f"(default: {self.default})"

    def value(self, parsed: Any) -> Any:
        """The value of the field: the parsed one, but of a mixture's words one text.

        Raises InputError where the words are no mixture.
        """
        return joined(parsed) if self.is_mixture else parsed

    def default_keyword(self) -> dict[str, Any]:
        """The default as the keyword of `dataclasses.field`, of the type that is parsed."""
        if self.required:
            return {}
        return {"default": () if self.is_mixture and self.default is None else self.default}

    @property
    def _plain(self) -> Any:
        """The type of one value: without `| None`, and of a tuple its items'."""
        if self.is_list:
            return get_args(self.type)[0]
        if get_origin(self.type) not in (Union, UnionType):
            return self.type
        (plain,) = (part for part in get_args(self.type) if part is not NoneType)
        return plain


def options_of(config: type[Any], positional: tuple[str, ...] = ()) -> dict[str, Option]:
    """The options of a dataclass by their names with hyphens, its own before inherited ones; nested
    dataclasses lie flat."""
    hints = get_type_hints(config)
    annotated = get_type_hints(config, include_extras=True)
    docs = _field_docs(config)
    own: dict[str, Option] = {}
    nested: dict[str, Option] = {}
    fields = {field.name: field for field in dataclasses.fields(config)}
    for field in (fields[name] for name in dict.fromkeys([*docs, *fields]) if name in fields):
        if dataclasses.is_dataclass(hints[field.name]):
            nested |= options_of(hints[field.name])
        else:
            is_mixture = _holds(annotated[field.name], Mixture)
            own[field.name.replace("_", "-")] = Option(
                name=field.name,
                type=tuple[str, ...] if is_mixture else _with_choices(annotated[field.name]),
                help=docs[field.name],
                default=field.default,
                positional=field.name in positional,
                is_path=_holds(annotated[field.name], FilePath),
                is_mixture=is_mixture,
                may_be_any_text=_holds(annotated[field.name], AnyText),
            )
    return own | nested


def _with_choices(annotated: Any) -> Any:
    """The type without annotations; a text annotated with a registry is one of its names, or of the
    texts beside it: `Annotated[str, GATES, "all"]`."""
    if get_origin(annotated) is Annotated:
        plain, *notes = get_args(annotated)
        registries = cast(
            list[Registry[Any]], [note for note in notes if isinstance(note, Registry)]
        )
        more = [note for note in notes if isinstance(note, str)]
        names = [name for registry in registries for name in registry.names()]
        return Literal[(*names, *more)] if registries else plain
    if get_origin(annotated) in (Union, UnionType):
        return Union[tuple(map(_with_choices, get_args(annotated)))]  # noqa: UP007
    if get_origin(annotated) is tuple:
        return tuple[tuple(map(_with_choices, get_args(annotated)))]
    return annotated


def _holds(kind: Any, annotated: Any) -> bool:
    """Whether the type is the annotated one, or has it as a part."""
    if get_origin(kind) is Annotated:
        return kind == annotated
    return any(_holds(part, annotated) for part in get_args(kind))


@functools.cache
def _field_docs(config: type[Any]) -> dict[str, str]:
    """The docstring under each field, which Python itself does not keep; inherited ones last."""
    docs: dict[str, str] = {}
    for owner in (kind for kind in config.__mro__ if dataclasses.is_dataclass(kind)):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        for statement, below in pairwise(tree.body if isinstance(tree, ast.ClassDef) else []):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                docs.setdefault(statement.target.id, " ".join(str(below.value.value).split()))
    return docs
