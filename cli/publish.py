"""The verb `publish`."""

from typing import Any

from ..app.publish.config import PublishConfig
from ..sae.common.wording import counted, size
from .console import Report, Terminal, table

_LINES_OF_THE_CARD = 24


def run(config: PublishConfig, terminal: Terminal) -> Report:
    """Write a run as a folder for the Hugging Face hub, with a model card; --push uploads it.

    RUN is the folder of a complete run. The folder has the autoencoder in this tool's layout and in
    that of SAELens, a card written from what was measured, plots, and the feature index. Without
    --push nothing is sent: look at the folder first.
    """
    from ..app.publish.publish import CARD, publish

    done = publish(config, say=terminal.say)
    upload = done.upload
    lines = (done.folder / CARD).read_text(encoding="utf-8").splitlines()
    values: dict[str, Any] = {
        "run": config.run,
        "out": str(done.folder),
        "repo": upload.repository,
        "url": upload.url,
        "pushed": config.push,
        "commit": upload.commit,
        "files": dict(upload.files),
        "changed": list(upload.changed),
    }
    total = sum(upload.files.values())
    shown = [
        f"{done.folder} holds {counted(len(upload.files), 'file')}, {size(total)}:",
        table(*((name, size(n_bytes), "") for name, n_bytes in upload.files.items())),
    ]
    if config.push:
        sent = counted(len(upload.changed), "file")
        shown.append(f"{sent} changed at {upload.url}, commit {upload.commit}")
    else:
        shown += ["the card begins:", *(f"  {line}" for line in lines[:_LINES_OF_THE_CARD])]
        shown.append(f"nothing was sent; the same command with --push uploads it to {upload.url}")
    return Report(values=values, shown=shown, warnings=done.warnings)
