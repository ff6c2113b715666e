"""A page of features that opens from disk: index.html and files beside it, no server."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...sae.common.text import visible
from ...sae.common.wording import count, counted
from ..browser.examples import token_text
from ..browser.numbers import figures
from .chosen import Chosen, SharedFeature
from .config import ShareConfig
from .feature_html import PAGE, environment, feature_html

FEATURES_IN_CHUNK = 256

_BROWSER_STYLE = PAGE.parents[1] / "browser" / "static" / "browser.css"


def write_static_page(
    folder: Path,
    chosen: Chosen,
    config: ShareConfig,
    report: Callable[[int, int, str], None],
) -> None:
    """Write the page into an empty folder.

    A script element is the only way by which a page from disk may read a file beside it, so the
    features are in scripts of 256 each, and read when one of them is first shown.

    Args:
        folder: where.
        chosen: the features.
        config: how many examples of each.
        report: told the features done, all of them, and nothing more.
    """
    unit = str(chosen.index.manifest["unit"])
    rows: list[dict[str, Any]] = []
    chunks: list[str] = []
    for start in range(0, len(chosen.numbers), FEATURES_IN_CHUNK):
        shared = [chosen.feature(n) for n in chosen.numbers[start : start + FEATURES_IN_CHUNK]]
        pages: list[str] = []
        for each in shared:
            pages.append(feature_html(each, config.examples, unit))
            report(start + len(pages), len(chosen.numbers), "")
        rows += [_row(each) for each in shared]
        name = f"chunk-{len(chunks):04}.js"
        text = f"sparsteerChunk({len(chunks)}, {script_json(pages)});\n"
        (folder / name).write_text(text, encoding="utf-8")
        chunks.append(name)
    listed = {"size": FEATURES_IN_CHUNK, "chunks": chunks, "rows": rows}
    list_text = f"window.sparsteerList = {script_json(listed)};\n"
    (folder / "list.js").write_text(list_text, encoding="utf-8")
    shutil.copyfile(_BROWSER_STYLE, folder / "browser.css")
    for name in ("sharing.css", "sharing.js"):
        shutil.copyfile(PAGE / name, folder / name)
    (folder / "index.html").write_text(_index(chosen, list_text), encoding="utf-8")


def script_json(value: object) -> str:
    """The value as JSON that is safe in any script: no end of the script element, no comment of
    HTML, and no line end that only JavaScript knows."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for unsafe, safe in (
        ("</", "<\\/"),
        ("<!--", "\\u003c!--"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(unsafe, safe)
    return text


def _row(shared: SharedFeature) -> dict[str, Any]:
    """What the list shows of a feature, and what it is found by."""
    machine = shared.machine_label if shared.is_machine_made else None
    detection = machine.detection if machine else None
    feature = shared.feature
    promoted = feature.positive_logits or ()
    return {
        "number": feature.feature,
        "label": visible(shared.label),
        "machine": machine is not None,
        "score": f"{detection.balanced_accuracy:.2f}" if detection else "",
        "note": visible(shared.pick.note) if shared.pick else "",
        "peaks": [token_text(text) for text in shared.peaks],
        "tokens": sorted(
            {visible(t).strip() for t in (*shared.peaks, *(p.text for p in promoted))}
        ),
        "numbers": f"{counted(feature.fired, 'firing')}, largest {figures(feature.max_activation)}",
    }


def _index(chosen: Chosen, list_text: str) -> str:
    manifest = chosen.index.manifest
    title = chosen.run.name
    # Drawn from the content, so that the same features give the same bytes.
    nonce = hashlib.sha256(f"{title} {list_text}".encode()).hexdigest()[:32]
    n_features = counted(len(chosen.numbers), "feature")
    return (
        environment()
        .get_template("index.html")
        .render(
            nonce=nonce,
            title=title,
            heading=f"{n_features} of {count(chosen.index.n_latents)}",
            about=f"{chosen.why.capitalize()}; {manifest.get('model', 'a language model')} at "
            f"{manifest['site']}, activations of {counted(manifest['rows'], 'token')}",
            footer="made by sparsteer; nothing on this page is loaded from the network",
        )
    )
