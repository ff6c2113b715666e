"""What a finished scoring was made from, kept beside its result so that it is not made twice."""

from pathlib import Path
from typing import Any

from ...sae.common.checksums import (
    VERSION,
    read_checked_json,
    record_of,
    recorded_files,
    write_checked_json,
)
from ...sae.common.errors import InputError

_FORMAT = "sparsteer-scoring"


class ScoringRecord:
    """The file OUT.scoring: identity and summary of the scoring that wrote OUT.

    Attributes:
        path: the file.
        identity: what OUT depends on, by name; empty where nothing was finished.
        summary: what `score` returned then.
    """

    def __init__(self, out: Path, *, force: bool) -> None:
        """Look at what is at OUT.

        Raises InputError if a file is there that is not as a scoring wrote it, or its record is not
        as it was written, unless `force`.
        """
        self.path = out.with_name(f"{out.name}.scoring")
        self.identity: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        if force or not out.exists():
            return
        if not self.path.exists() or not self._is_of(out):
            raise InputError(
                f"{out} exists and is not as a scoring left it; give another --out, or --force to "
                "replace it"
            )

    def is_of(self, identity: dict[str, Any], out: Path) -> bool:
        """Whether OUT is the finished result of this identity.

        Raises InputError if it is the result of another one, naming what differs.
        """
        if self.identity:
            self.require_same(dict.fromkeys(self.identity) | identity, out)
        return bool(self.identity)

    def require_same(self, identity: dict[str, Any], out: Path) -> None:
        """Raise InputError, naming what differs, if OUT is the finished result of another identity,
        of which a part may be given."""
        for name in identity if self.identity else ():
            if identity[name] != self.identity.get(name):
                raise InputError(
                    f"{out} holds scores made with {another(name)}; give another --out, or --force "
                    "to score anew"
                )

    def write(
        self, content: Path, out: Path, identity: dict[str, Any], summary: dict[str, Any]
    ) -> None:
        """Say what the file `content`, which is about to become OUT, was made from."""
        files = {out.name: _recorded(content)}
        values = {"format": _FORMAT, "version": VERSION, "files": files}
        write_checked_json(self.path, {**values, "identity": identity, "summary": summary})

    def _is_of(self, out: Path) -> bool:
        remedy = "give another --out, or --force to score anew"
        values = read_checked_json(self.path, "record of a scoring", remedy=remedy)
        if (values.get("format"), values.get("version")) != (_FORMAT, VERSION):
            return False
        if record_of(values, out.name) != _recorded(out):
            return False
        self.identity, self.summary = values["identity"], values["summary"]
        return True


def another(name: str) -> str:
    """What differs in an identity, in words."""
    if name == "rows":
        return "other rows"
    words = ("target", "autoencoder", "model", "site")
    return f"another {name if name in words else '--' + name.replace('_', '-')}"


def _recorded(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    return recorded_files(path.parent, [path.name])[path.name]
