"""The verb `features export`."""

import shlex

from ..app.sharing.config import ShareConfig
from ..sae.common.wording import count, size
from .console import Report, Terminal, table

_READS = {
    "neuronpedia": "Neuronpedia's import reads the folder; see docs/features.md, Sharing",
    "saedashboard": "SAEDashboard's and Neuronpedia's converters read the batches",
}

_SIZES = {
    "static": "about a seventh of that when it is zipped",
    "saedashboard": "about a seventh of that when it is zipped",
}


def run(config: ShareConfig, terminal: Terminal) -> Report:
    """Write features as a page that opens from disk without a server, or for other tools.

    RUN is the folder of a run with a feature index. By default the picks are written, or the 100
    most interesting features if nothing is picked.
    """
    from ..app.sharing.exporting import export_features

    with terminal.progress("writing", "features") as update:
        values = export_features(config, report=update)
    shown = (
        f"wrote {values['folder']}",
        table(
            ("features", count(len(values["features"])), values["chosen"]),
            ("files", count(values["files"]), config.format),
            ("size", size(values["bytes"]), _SIZES.get(config.format, "")),
        ),
        _READS.get(config.format, f"open {shlex.quote(values['opens'])} in a browser"),
    )
    return Report(values=values, shown=shown)
