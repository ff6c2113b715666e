"""The verb `steer fit`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..sae.common.wording import count, counted
from ..steering.fitting.config import FitConfig
from .console import Report, Terminal, headed_grid

if TYPE_CHECKING:
    from rich.console import RenderableType


def fit(config: FitConfig, terminal: Terminal) -> Report:
    """Fit a direction, maps or a gate, and say how well it tells texts apart.

    METHOD is how it is found. Give --positive and --negative, or --pairs, or --scored, or
    --observable, or --models with --texts. Part of the texts is held out, and the separation is
    measured on it. With --neutral what steering at strength 1 changes is measured. The folder is
    an intervention, which `generate --intervention` takes.
    """
    from ..steering.fitting.fitting import fit as fit_method
    from ..steering.fitting.saving import fitted_values

    fitted = fit_method(config, say=terminal.say)
    values: dict[str, Any] = {**fitted_values(fitted), "out": config.out}
    report: dict[str, Any] = values["report"]
    shown: list[RenderableType] = [
        f"{values['method']}, fitted to {counted(report['n_texts'], 'text')} with "
        f"{counted(report['n_tokens'], 'token')}",
        *_edits(values),
        *_sites(report["details"].get("sites", [])),
        _separation(report["separation"]),
        *_changes(report),
        *_details(report["details"]),
        f"written: {config.out}",
    ]
    return Report(values=values, shown=shown, warnings=_warnings(values))


def _edits(values: Mapping[str, Any]) -> list[str]:
    lines = [f"edit: {edit['kind']} at {edit['site']}" for edit in values["edits"]]
    gate = values["gate"]
    if gate is not None:
        named = {"threshold": gate["threshold"], **gate["settings"]}
        settings = ", ".join(f"{name} {_shown(value)}" for name, value in named.items())
        lines.append(f"gate: {gate['kind']} at {gate['site']}, {settings}")
    if (cap := values["cap"]) is not None:
        lines.append(f"cap: at {cap['site']}, budget {_shown(cap['budget'])}")
    return lines


def _sites(rows: Sequence[Mapping[str, Any]]) -> "list[RenderableType]":
    """The sites that were compared; nothing if there was one."""
    if not rows:
        return []
    grid = headed_grid("site", ">AUROC", ">d'", ">published score")
    for row in rows:
        names = ("auroc", "d_prime", "published_layer_score")
        grid.add_row(row["site"], *(_shown(row.get(name)) for name in names))
    return [
        "how well each site tells apart texts that were not fitted to there (the published score "
        "has no part in the choice):",
        grid,
    ]


def _separation(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "held-out separation: not measured"
    d_prime = f", d' {_shown(found['d_prime'])}" if "d_prime" in found else ""
    return (
        f"held-out separation: AUROC {found['auroc']:.3f}{d_prime}, "
        f"{count(found['n_positive'])} positive and {count(found['n_negative'])} negative"
    )


def _changes(report: Mapping[str, Any]) -> list[str]:
    """What was measured on neutral texts."""
    details, norm = report["details"], report["change_norm"]
    lines: list[str] = []
    if "neutral_opening" in details:
        opening = _shown(details["neutral_opening"])
        lines.append(f"on neutral texts the gate is open by {opening} on average")
    neutral = details.get("neutral")
    if neutral is None or norm is None:
        return lines or ["what it changes on neutral texts: not measured; give --neutral FILE"]
    return [
        *lines,
        f"at strength 1 on {counted(neutral['n_tokens'], 'neutral token')}: KL "
        f"{report['neutral_kl']:.4g} nats (95% of tokens below "
        f"{neutral['kl_steered_base_p95']:.4g}), entropy "
        f"{neutral['entropy_change']:+.4g}, the likeliest token stays on "
        f"{100 * neutral['top1_agreement']:.1f}%",
        f"length of the change beside the activation: median {norm['median']:.3g}, "
        f"5% {norm['p5']:.3g}, 95% {norm['p95']:.3g}",
    ]


def _details(details: Mapping[str, Any]) -> list[str]:
    """What only this method says."""
    elsewhere = ("sites", "neutral", "neutral_opening", "threshold", "budget")
    return [
        f"{name.replace('_', ' ')}: {_shown(value)}"
        for name, value in details.items()
        if name not in elsewhere
    ]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_shown(v)}" for name, v in value.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType, reportUnknownVariableType] - of JSON
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _warnings(values: Mapping[str, Any]) -> list[str]:
    if values["edits"]:
        return []
    if values["gate"] is None and values["cap"] is None:
        return ["the maps change nothing, so this steers nothing"]
    what = "gate" if values["cap"] is None else "cap"
    return [f"this is a {what} and no edit, which steers nothing; give --edits-of DIR to join them"]
