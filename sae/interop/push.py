"""Autoencoders onto the Hugging Face hub: their files in two layouts, a folder in one commit."""

import copy
import dataclasses
import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import InputError
from ..common.files import sha256_file
from ..common.wording import counted, size
from ..fetching.hub import LOG_IN, http_error, not_reached, patience, refusal
from ..language_model.names import public_name
from .hub import PREFIX, parse_hub_source
from .layouts import writable_layout

if TYPE_CHECKING:
    from ..autoencoder import SparseAutoencoder

SAELENS = "saelens"
"""Folder of the layout of that name, beside this package's own files."""

_OWN_FOLDERS = (SAELENS, "features", "plots")
"""Folders of a repository that hold nothing but what is pushed: what a push lacks is deleted."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class HubUpload:
    """What was pushed to the hub, or would be."""

    repository: str
    """OWNER/NAME."""
    url: str
    """Its page."""
    commit: str | None
    """The commit, in 40 digits; None after a dry run."""
    files: Mapping[str, int]
    """Bytes of each file, by its path in the repository."""
    changed: tuple[str, ...]
    """The files that were sent or deleted; the others were there already. Empty after a dry
    run, which asks the hub nothing."""


def push_to_hub(
    sae: "SparseAutoencoder",
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    dry_run: bool = False,
) -> HubUpload:
    """As `SparseAutoencoder.push_to_hub`."""
    require_repository(repository)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "sae"
        folder.mkdir()
        write_layouts(sae, folder)
        if dry_run:
            return not_pushed(folder, repository)
        return push_folder(
            folder,
            repository,
            private=private,
            revision=revision,
            message=commit_message or "Push a sparse autoencoder",
        )


def write_layouts(sae: "SparseAutoencoder", folder: Path) -> str | None:
    """Write the autoencoder into an empty folder: this package's layout, and SAELens's in
    `saelens/`.

    Its origin has the model and the corpus by `public_name`.

    Returns:
        Why there is no `saelens/`; None if there is one.
    """
    public = copy.copy(sae)  # shares the weights
    if origin := sae.origin:
        dataset = None if origin.dataset is None else public_name(origin.dataset)
        public.origin = dataclasses.replace(
            origin, model=public_name(origin.model), dataset=dataset
        )
    public.save(folder)
    (folder / SAELENS).mkdir()
    try:
        writable_layout(SAELENS).write(public, folder / SAELENS, public.W_dec.dtype)
    except InputError as error:
        shutil.rmtree(folder / SAELENS)
        return str(error).partition(";")[0]
    return None


def require_repository(repository: str, field: str | None = None) -> None:
    """Raise InputError unless it has the form OWNER/NAME; `field` is the setting that gave it."""
    try:
        plain = parse_hub_source(PREFIX + repository).repository == repository
    except InputError:
        plain = False
    if not plain:
        name = field or "the repository"
        raise InputError(
            f"{name} is {repository!r}; write OWNER/NAME, with your name on the hub, or your "
            "organization's, as OWNER",
            field=field,
        )


def not_pushed(folder: Path, repository: str) -> HubUpload:
    """What pushing the folder would push; nothing is asked over the network."""
    from huggingface_hub import constants

    return HubUpload(
        repository=repository,
        url=f"{constants.ENDPOINT}/{repository}",
        commit=None,
        files=_sizes(folder),
        changed=(),
    )


def push_folder(
    folder: Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str,
    progress: Progress = lambda message: None,
) -> HubUpload:
    """Let a repository have the files of a folder, in one commit, which is taken whole or not.

    The repository and the branch are made if they are not there. A file that is there alike is not
    sent again. Of the folders that an earlier push wrote, files that are no longer in this one are
    deleted; whatever else the repository has stays.

    Args:
        folder: what to push.
        repository: OWNER/NAME.
        private: whether a repository that is made now is private.
        revision: the branch; by default `main`.
        message: of the commit.
        progress: called with a line before something is sent.

    Raises:
        InputError: nobody is logged in, the user may not write there, the repository is public
            though `private` was asked for, or the hub refused the files or cannot be reached.
    """
    import huggingface_hub as hub

    client: Any = hub  # leaves the types of its arguments open
    if hub.get_token() is None:
        raise InputError(f"to write to {repository!r}, {LOG_IN} to a token that may write")
    api = client.HfApi()
    try:
        found = _state(api, repository, revision, private=private)
        new, gone = _changes(folder, {file.rfilename: file for file in found.siblings or ()})
        commit = found.sha
        if new or gone:
            n_bytes = sum((folder / name).stat().st_size for name in new)
            progress(f"uploading {counted(len(new), 'file')} ({size(n_bytes)}) to {repository}")
            operations = [
                *(client.CommitOperationAdd(name, folder / name) for name in new),
                *(client.CommitOperationDelete(name) for name in gone),
            ]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # at Parquet files, which a feature index has
                commit = api.create_commit(
                    repository, operations, commit_message=message, revision=revision
                ).oid
    except InputError:
        raise
    except (http_error(), OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system
        raise _failure(error, repository, revision) from error
    return HubUpload(
        repository=repository,
        url=not_pushed(folder, repository).url,
        commit=commit,
        files=_sizes(folder),
        changed=tuple(sorted([*new, *gone])),
    )


def _state(api: Any, repository: str, revision: str | None, *, private: bool) -> Any:
    """What the hub says of the repository and its files, after it and the branch were made."""
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.model_info(repository, timeout=patience())
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:
            raise
        api.create_repo(repository, private=private)
        found = api.model_info(repository, timeout=patience())
    if private and found.private is False:
        raise InputError(
            f"{constants.ENDPOINT}/{repository} is public; make it private in its settings there, "
            "push to another repository, or leave out that it be private"
        )
    if revision is not None:
        api.create_branch(repository, branch=revision, exist_ok=True)
    return api.model_info(repository, revision=revision, files_metadata=True, timeout=patience())


def _changes(folder: Path, there: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The files that the repository must get, and those that it must lose, for it to have those of
    the folder."""
    here = _sizes(folder)
    new = [n for n in here if n not in there or not _is_alike(folder / n, there[n])]
    ours = [n for n in there if "/" in n and n.partition("/")[0] in _OWN_FOLDERS]
    return new, [name for name in ours if name not in here]


def _is_alike(path: Path, sibling: Any) -> bool:
    """Whether a file has the content of one on the hub, by the hash under which it lies there."""
    if sibling.lfs is not None:
        return sha256_file(path) == sibling.lfs.sha256
    content = path.read_bytes() if path.stat().st_size == sibling.size else b""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == sibling.blob_id


def _failure(error: Exception, repository: str, revision: str | None) -> InputError:
    """The sentence about what broke while pushing."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    # What went wrong with a large file is the cause of what the client raises.
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    if isinstance(cause, HfHubHTTPError) and cause.response.status_code < 500:
        if cause.response.status_code != 403:
            return refusal(cause, repository, revision)
        return InputError(
            f"the token in use may not write to {repository!r}; make one that may "
            f"({constants.ENDPOINT}/settings/tokens), or push to a repository of your own"
        )
    if isinstance(cause, (http_error(), ConnectionError)):
        return InputError(
            f"{not_reached(cause)}; give the same command again, which sends what the hub does not "
            "have yet"
        )
    said = " ".join(str(cause).split())
    return InputError(f"the hub refused what was to be pushed to {repository!r} ({said}); mend it")


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file in the folder and those within, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
