"""Files of repositories on the Hugging Face hub, downloaded into that hub client's own cache.

What goes wrong is one sentence with its remedy: the repository, or the revision, is not there, is
private or gated, or the hub cannot be reached. What the cache has is used where the hub cannot be
reached. Only a whole file gets its name in the cache, so that an interruption leaves nothing half.
"""

import glob
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import InputError
from ..common.files import free_disk, nearest
from ..common.text import first_line
from ..common.wording import size

Progress = Callable[[str], None]

Choose = Callable[[Sequence[str]], Sequence[str]]
"""Takes the names of all files of a repository, gives those to download; raises InputError where it
finds none."""

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class Snapshot:
    """Some files of a repository at one commit."""

    folder: Path
    """In the cache, with the repository's own folders and names."""
    commit: str
    """The 40 digits of the commit, which pins the content."""


def download(
    repository: str,
    choose: Choose,
    *,
    revision: str | None = None,
    progress: Progress = lambda message: None,
) -> Snapshot:
    """Bring chosen files of a model repository into the cache, unless they are there.

    Args:
        repository: OWNER/NAME.
        choose: takes the names of all files, gives those to download.
        revision: a branch, a tag or a commit; by default the branch `main`.
        progress: called with a line if something is downloaded.

    Raises:
        InputError: the repository or revision is not there or not open to the user, `choose` found
            nothing, the disk is too small, or the hub cannot be reached and the files are not in
            the cache.
        OSError: the cache cannot be written, as on a full disk.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError

    client: Any = hub  # leaves the types of its arguments open
    try:
        info = client.HfApi().model_info(
            repository, revision=revision, files_metadata=True, timeout=patience()
        )
    except HFValidationError as error:
        raise InputError(
            f"the hub has no repository {repository!r} ({first_line(error)})"
        ) from None
    except (http_error(), OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if not _is_unreachable(error):
            raise refusal(error, repository, revision) from error
        return _cached(repository, choose, revision, error)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    names = choose(list(sizes))
    new = {name: sizes[name] for name in names if not _is_cached(repository, name, info.sha)}
    if new:
        _require_space(repository, sum(new.values()))
        progress(f"downloading {size(sum(new.values()))} from {constants.ENDPOINT}/{repository}")
    try:
        folder = client.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[glob.escape(name) for name in names],
            etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
    except (http_error(), OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = error.filename or constants.HF_HUB_CACHE
            raise  # of the file system, such as a full disk
        if _is_unreachable(error):
            raise InputError(
                f"the download from {constants.ENDPOINT}/{repository} broke off "
                f"({first_line(error.__cause__ or error)}); give the same command again, "
                "which keeps the files that are whole"
            ) from error
        raise refusal(error, repository, revision) from error
    return Snapshot(Path(folder), Path(folder).name)


def patience() -> tuple[float, float, float, float]:
    """Seconds to wait for a connection, for an answer (long lists take the hub a while), for
    sending and for a free connection, as the client's HTTP library takes them."""
    from huggingface_hub import constants

    seconds = float(constants.HF_HUB_ETAG_TIMEOUT)
    return seconds, 3.0 * seconds, 3.0 * seconds, seconds


def refusal(error: Exception, repository: str, revision: str | None = None) -> InputError:
    """The sentence about what the hub's client raised, with its remedy."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{repository}"
    has_token = get_token() is not None
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, GatedRepoError):
        if not has_token:
            return InputError(f"{page} is gated; accept its conditions on that page, then {LOG_IN}")
        return InputError(
            f"{page} is gated, and the account of the token in use has no access; ask for it on "
            "that page"
        )
    if isinstance(error, RevisionNotFoundError):
        return InputError(f"{page} has no revision {revision!r}{_revisions(repository, revision)}")
    if status == 401 and "credentials" in str(error):
        return InputError(
            f"the hub does not accept the token in use; {LOG_IN} to a token that is still valid"
        )
    if status == 401 or isinstance(error, RepositoryNotFoundError):
        if not has_token:
            return InputError(
                f"the hub shows nobody a repository {repository!r}; check the name, or, if it is "
                f"private, {LOG_IN}"
            )
        return InputError(
            f"the hub has no repository {repository!r} that the token in use may read; check the "
            "name and the rights of the token"
        )
    if status == 429:
        return InputError(
            f"the hub answers {page} with too many requests in too short a time; wait some "
            f"minutes, or {LOG_IN}, which allows more"
        )
    said = getattr(error, "server_message", None) or str(error)
    return InputError(f"the hub refused {page} ({first_line(ValueError(said))}); look at that page")


def http_error() -> type[Exception]:
    """The base of what the hub client's HTTP library raises; which library is the client's own."""
    from huggingface_hub import errors

    return errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]


def not_reached(error: Exception) -> str:
    """The beginning of a sentence: why the hub was not reached."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids to ask the hub"
    if isinstance(error, HfHubHTTPError):
        return f"{constants.ENDPOINT} is out of order (status {error.response.status_code})"
    return f"{constants.ENDPOINT} cannot be reached ({first_line(error)})"


def _is_unreachable(error: Exception) -> bool:
    """Whether an error says that there is no connection, or that the hub itself is down."""
    from huggingface_hub.errors import HfHubHTTPError

    return not isinstance(error, HfHubHTTPError) or error.response.status_code >= 500


def _cached(repository: str, choose: Choose, revision: str | None, reason: Exception) -> Snapshot:
    """What the cache has of the repository, where the hub cannot be reached."""
    import huggingface_hub as hub
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    client: Any = hub
    named = f"{repository}{'' if revision is None else f'@{revision}'}"
    remedy = "fetch it once where the hub can be reached"
    try:
        folder = Path(
            # No pattern: another program may have wanted other files of this repository.
            client.snapshot_download(
                repository, revision=revision, local_files_only=True, allow_patterns=[]
            )
        )
    except (LocalEntryNotFoundError, ValueError):
        raise InputError(
            f"{not_reached(reason)}, and {named} is not in its cache; {remedy}"
        ) from reason
    try:
        tree = client.get_cached_repo_tree(repository, revision=folder.name)
        names = [file.path for file in tree]
    except CachedRepoTreeNotFoundError:
        names = [
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        ]
    wanted = choose(names)
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        raise InputError(
            f"{not_reached(reason)}, and {missing[0]} of {named} is not in its cache; {remedy}"
        ) from reason
    return Snapshot(folder, folder.name)


def _is_cached(repository: str, name: str, commit: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, name, revision=commit), str)


def _require_space(repository: str, needed: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    free = free_disk(cache)
    if needed > free:
        raise InputError(
            f"what is wanted of {repository} has {size(needed)}, but the disk of {cache} has "
            f"{size(free)} left; free some, or set HF_HOME to a folder on another disk"
        )


def _revisions(repository: str, wanted: str | None) -> str:
    """The end of a sentence: the branches and tags most like the wanted one."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repository)
    except (http_error(), OSError):
        return "; look at its branches and tags there"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return f"; it has {listed(wanted or '', names)}"


def listed(wanted: str, names: Iterable[str], most: int = 3) -> str:
    """Up to so many of the names, those most like the wanted one first, with their number if there
    are more."""
    names = list(names)
    near = nearest(wanted, names)
    shown = [*near, *(name for name in names if name not in near)][:most]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown) + more
