"""What the dry runs of several verbs have in common."""

from ..sae.common.errors import InputError


def require_dry_run(gpu: str | None, *, dry_run: bool) -> None:
    """Raise an InputError if a GPU is named, but this is no dry run."""
    if gpu is not None and not dry_run:
        raise InputError(
            f"gpu is {gpu}, but only a dry run is of a GPU by name; add --dry-run, or leave it "
            "out: --device says where to run",
            field="gpu",
        )
