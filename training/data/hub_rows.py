"""Data sets of the hub: the commit that pins one, and its rows."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import cast

from ...sae.common.errors import InputError
from ...sae.common.files import nearest
from .row_files.formats import library
from .row_files.row_file import Row


def hub_rows(stream: Iterable[Row], where: str) -> Iterator[Row]:
    """The rows of a stream; an InputError that names `where` if it breaks off."""
    n_read = 0
    try:
        for row in stream:
            n_read += 1
            yield row
    except Exception as error:  # whichever of its HTTP client's and readers' many errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{where} stopped giving rows after {n_read:,} ({reason}); give the same command again"
        ) from error


def hub_commit(dataset: str, name: str, revision: str | None, fetched: Collection[str]) -> str:
    """The commit that a hub data set stands at, which pins its content.

    Raises InputError if the hub gives none: then `dataset` leads nowhere, since it is no file
    either and none of the `fetched` names.
    """
    try:
        info = library("huggingface_hub").HfApi().dataset_info(name, revision=revision)
    except Exception as error:  # whichever of its HTTP client's many errors: the name leads nowhere
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{dataset} is neither a file or folder here, nor a fetched name "
            f"({', '.join(fetched)}), nor a data set that the hub gives ({reason}); "
            f"{_nearest_here(name, fetched)}"
        ) from None
    return cast(str, info.sha)


def _nearest_here(name: str, fetched: Collection[str]) -> str:
    path = Path(name)
    siblings = [str(item) for item in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(name, [*fetched, *siblings])
    return f"did you mean {' or '.join(near)}?" if near else "check the name, or give a local file"
