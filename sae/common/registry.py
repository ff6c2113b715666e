"""Things of one kind that are chosen by name: those of this package and those of installed ones.

A package adds to a kind with an entry point of the kind's group in its `pyproject.toml`:

    [project.entry-points."sparsteer.edits"]
    scale = "my_package:Scale"

A setting that takes such a name has the type `Annotated[str, EDITS]`, by which the command's help,
completion and errors know the names.
"""

from collections.abc import Collection, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from .errors import InputError
from .files import nearest
from .text import first_line

T = TypeVar("T")


class Registry(Generic[T]):
    """What can be chosen by name of one kind. Nothing is imported before it is chosen.

    A name means the first that has it: of `register`, of `builtin`, of the installed packages.
    """

    def __init__(
        self, kind: str, entry_point_group: str, builtin: Mapping[str, str] | None = None
    ) -> None:
        """Take what to call the kind, its group of entry points, and its entries in this package.

        Args:
            kind: in words, for errors: `edit`.
            entry_point_group: `sparsteer.edits`.
            builtin: where each entry lies, by its name: `package.module:attribute`.
        """
        self.kind = kind
        self._group = entry_point_group
        self._values: dict[str, T] = {}
        self._builtin = {
            name: EntryPoint(name, place, entry_point_group)
            for name, place in (builtin or {}).items()
        }

    @property
    def builtin(self) -> tuple[str, ...]:
        """The names of this package's own."""
        return tuple(self._builtin)

    def register(self, name: str, value: T) -> None:
        """Add an entry in this process, in place of any that has the name."""
        self._values[name] = value

    def names(self) -> tuple[str, ...]:
        """Every name: this package's in its own order, then the others'."""
        return tuple(dict.fromkeys([*self._builtin, *self._values, *self._installed]))

    def require(self, name: str) -> str:
        """The name, if there is an entry of it; nothing is imported.

        Raises:
            InputError: there is none, with the nearest name that there is.
        """
        if name in [*self._values, *self._builtin] or name in [*self._installed]:
            return name
        near = nearest(str(name), self.names())
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"the {self.kind}s are {', '.join(self.names())}"
        )
        raise InputError(f"{self.kind} is {name!r}; {hint}", field=self.kind)

    def get(self, name: str) -> T:
        """The entry of this name, imported when it is first asked for.

        Raises:
            InputError: as `require`, or an installed package's entry cannot be imported.
        """
        if self.require(name) not in self._values:
            entry = self._builtin.get(name) or self._installed[name]
            try:
                self._values[name] = entry.load()
            except (ImportError, AttributeError) as error:
                raise InputError(
                    f"{self.kind} {name!r} is {entry.value}, which cannot be imported "
                    f"({first_line(error)}); mend or uninstall the package that has it",
                    field=self.kind,
                ) from error
        return self._values[name]

    def version(self, name: str) -> str | None:
        """The version of the installed package that brings an entry; None of others."""
        entry = self._installed.get(name)
        if name in self._builtin or entry is None or entry.dist is None:
            return None
        return entry.dist.version

    def without(self, *names: str, remedy: str) -> "Registry[T]":
        """The same entries but for some that need more than a name, for settings that give no more.

        Args:
            names: of those that are left out, which need fitted vectors.
            remedy: ends the error about one of them.
        """
        return _Part(self, names, remedy)

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self._group)}


class _Part(Registry[T]):
    """A registry but for some names; what is registered in either is in both."""

    def __init__(self, whole: Registry[T], excluded: Collection[str], remedy: str) -> None:
        super().__init__(whole.kind, "")
        self._whole, self._excluded, self._remedy = whole, frozenset(excluded), remedy

    @property
    def builtin(self) -> tuple[str, ...]:
        return tuple(name for name in self._whole.builtin if name not in self._excluded)

    def register(self, name: str, value: T) -> None:
        self._whole.register(name, value)

    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._whole.names() if name not in self._excluded)

    def require(self, name: str) -> str:
        if name in [*self._excluded]:
            raise InputError(
                f"{self.kind} is {name!r}, which needs fitted vectors; {self._remedy}",
                field=self.kind,
            )
        return self._whole.require(name)

    def get(self, name: str) -> T:
        return self._whole.get(self.require(name))

    def version(self, name: str) -> str | None:
        return self._whole.version(name)
