"""What a finished scoring was made from, kept beside its result so that it is not made twice."""

from pathlib import Path
from typing import Any

from ...sae.errors import InputError
from ...sae.files import read_json, sha256_file, write_json

_FORMAT = "sparsteer-scoring"
_VERSION = 1


class ScoringRecord:
    """The file OUT.scoring: identity and summary of the scoring that wrote OUT.

    Attributes:
        path: the file.
        identity: what OUT depends on, by name; empty where nothing was finished.
        summary: what `score` returned then.
    """

    def __init__(self, out: Path, *, force: bool) -> None:
        """Look at what is at OUT.

        Raises InputError if a file is there that is not as a scoring wrote it, unless `force`.
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
        for name in (identity | self.identity) if self.identity else ():
            if identity.get(name) != self.identity.get(name):
                raise InputError(
                    f"{out} holds scores made with another {name}; give another --out, or --force "
                    "to score anew"
                )
        return bool(self.identity)

    def write(self, content: Path, identity: dict[str, Any], summary: dict[str, Any]) -> None:
        """Say what the file `content`, which is about to become OUT, was made from."""
        head = {"format": _FORMAT, "version": _VERSION, "sha256": sha256_file(content)}
        write_json(self.path, {**head, "identity": identity, "summary": summary})

    def _is_of(self, out: Path) -> bool:
        values = read_json(self.path, "record of a scoring", remedy=f"remove it and {out}")
        if (values.get("format"), values.get("version")) != (_FORMAT, _VERSION):
            return False
        if values.get("sha256") != sha256_file(out):
            return False
        self.identity, self.summary = values["identity"], values["summary"]
        return True
