"""The page of a run, and the page that compares several: HTML that loads nothing."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ...sae.common.wording import count, counted, duration, percent
from ...training.run import RunFolder
from .inline import for_page
from .markup import Child, Html, join, table, tag
from .measures import fvu, held_out, measures, place, places
from .page import figure, page
from .plots import Drawing

_CAPTIONS = {
    "fvu": "FVU while training. Line: the batch before its update; dots: held-out rows. Dots far "
    "above the line would mean overfitting.",
    "l0": "Active latents per row while training. Dotted: the width of the activations.",
    "density": "Latents by how often they fire. A healthy dictionary is a hump well left of the "
    "gray band, whose latents fire on over a tenth of the rows; far left are those that never did.",
    "zf": "ZF plot: a dot is a row, with its norm (the distance from the center of all) and its "
    "code's, in which b_dec counts as one more latent. On the dotted line both are equal, as they "
    "would be if latents were at right angles and the rewriting exact; top-AFA aims at it. Below "
    "it latents are active too little.",
}

_FRONT_CAPTIONS = {
    "fvu": "FVU against L0, with standard errors; autoencoders of one kind and width are joined. "
    "Lower left is better.",
    "recovered": "The fraction of the loss recovered against L0, with standard errors. Upper left "
    "is better; above 95% it hardly tells autoencoders apart.",
}


def run_page(run: RunFolder, result: Mapping[str, Any], drawings: Mapping[str, Drawing]) -> str:
    """The page of one run.

    Args:
        run: its folder.
        result: what `evaluate_all` found.
        drawings: `density` and `zf`, and of a run with metrics `fvu` and `l0`, drawn for a page.
    """
    kind = "transcoder" if result.get("target_site") else "autoencoder"
    what = f"A {result['activation']} {kind} of {counted(result['n_latents'], 'latent')}"
    origin = result["origin"]
    of = f" of {origin['model']}" if origin else ""
    lead = f"{what} {place(result)}{of}, measured on {held_out(result)}."
    shown = [figure(for_page(drawings[n]), _CAPTIONS[n]) for n in _CAPTIONS if n in drawings]
    sections = (
        tag("h1", f"Run {run.path.name}"),
        tag("p", lead),
        tag("h2", "Measures"),
        table(["Measure", "Value", "How to read it"], measures(result), class_="plain"),
        tag("p", "The figure after ± is the standard error, over documents or contexts."),
        *(tag("p", f"Caution: {text}.") for text in result["warnings"]),
        tag("h2", "Plots"),
        tag("div", join(*shown), class_="figures"),
        _training(run),
        _facts("Settings", run.settings()),
        _facts("Environment", run.environment()),
    )
    return page(f"Run {run.path.name}", sections)


def comparison_page(
    names: Sequence[str],
    results: Sequence[Mapping[str, Any]],
    links: Sequence[str | None],
    drawing: Drawing,
    fronts: Mapping[str, Drawing],
) -> str:
    """The page that compares autoencoders.

    Args:
        names: how each is called.
        results: what `evaluate_all` found.
        links: the folders of those that have pages of their own, relative to this one's.
        drawing: FVU against L0, drawn for a page.
        fronts: as of `fronts_of`, drawn for a page.
    """
    head = [
        "Autoencoder",
        "Activation",
        "Latents",
        "FVU",
        "L0",
        "Dead",
        "Overlap",
        "Recovered",
        "KL",
    ]
    rows = [
        _compared(name, result, link)
        for name, result, link in zip(names, results, links, strict=True)
    ]
    comparable = "one straight above or below it"
    if standing := places(results):
        head.append("Where")
        rows = [[*row, where] for row, where in zip(rows, standing, strict=True)]
        comparable += " that stands at the same place"
    caption = (
        "Where training went, and ended, in the plane of L0 and FVU; lower left is better. A point "
        f"is only comparable with {comparable}."
    )
    title = f"{len(results)} {_kinds(results)}"
    sections = (
        tag("h1", title),
        tag("p", f"Measured on {held_out(results[0])}. FVU is the fraction of the variance missed; "
            "recovered is the fraction of the loss that zeroing the site costs. After ± stands the "
            "standard error; these are the same rows for all, so differences are surer."),
        table(head, rows, class_="plain"),
        tag(
            "div",
            figure(for_page(drawing), caption),
            *(figure(for_page(one), _FRONT_CAPTIONS[name]) for name, one in fronts.items()),
            class_="figures",
        ),
    )  # fmt: skip
    return page(title, sections)


def _kinds(results: Sequence[Mapping[str, Any]]) -> str:
    found = {"transcoders" if result.get("target_site") else "autoencoders" for result in results}
    return " and ".join(sorted(found))


def _compared(name: str, result: Mapping[str, Any], link: str | None) -> list[Child]:
    losses = result["language_model"]
    return [
        name if link is None else tag("a", name, href=quote(f"{link}/report.html")),
        result["activation"],
        count(result["n_latents"]),
        fvu(result),
        f"{result['l0']:.1f}",
        percent(result["dead_fraction"]),
        f"{result['decoder_overlap']:.4f}",
        "" if losses is None else percent(losses["loss_recovered"]),
        "" if losses is None else f"{losses['kl_with_sae']:.3f}",
    ]


def _training(run: RunFolder) -> Html:
    lines = run.metrics()
    if not lines or "summary" not in lines[-1]:
        return tag("p", "Training is not complete.")
    summary = lines[-1]["summary"]
    text = (
        f"{counted(summary['steps'], 'step')}, {counted(summary['tokens'], 'row')} in "
        f"{duration(summary['seconds'])}: {count(summary['tokens_per_second'])} rows a second."
    )
    return join(tag("h2", "Training"), tag("p", text))


def _facts(title: str, values: Mapping[str, Any]) -> Html:
    rows = [(name, tag("code", value)) for name, value in _flat(values)]
    return tag("details", tag("summary", title), table(["Name", "Value"], rows, class_="facts"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")  # pyright: ignore[reportUnknownArgumentType] - of JSON
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
