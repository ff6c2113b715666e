"""What `sparsteer features search` gives: what one search found, and what is known of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...sae.common.errors import InputError
from ..labels.store import machine_labels
from .config import SEARCHES, SearchConfig
from .index import FeatureIndex
from .listing import PEAK_TEXTS, picks_beside
from .lookup import by_label, by_logit, by_neighbor, by_token
from .picks import Picks


def search_features(
    config: SearchConfig, *, say: Callable[[str], None] = lambda sentence: None
) -> dict[str, Any]:
    """Search the features of a run.

    Returns:
        `run`, `by` (one of `SEARCHES`), `query`, and `features`, best first: of each what the
        search found (the fields of `TextMatch`, `TokenMatch`, `LogitMatch`, `LabelMatch`,
        `RankedFeature` or `Neighbor`) and what `described` adds. By text also the other fields of
        `TextSearch`, `model`, `site` and `unit`; by observable those of `ObservableRanking`, and
        `model`.

    Raises:
        InputError: there is no run or index, no such token or feature, or run and language model
            do not belong together.
    """
    index = FeatureIndex.of_run(config.run)
    picks = picks_beside(index)
    by = next(name for name in SEARCHES if getattr(config, name) is not None)
    values: dict[str, Any] = {"run": config.run, "by": by, "query": getattr(config, by)}
    if config.text is not None:
        from ..loading import load_run_of
        from .text_search import search_text

        loaded = load_run_of(config, say)
        found = search_text(
            loaded,
            index,
            config.text,
            top=config.top,
            max_density=config.max_density,
            max_length=config.max_length,
        ).to_dict()
        names = {"model": loaded.model.name, "site": loaded.site.name}
        return (
            values
            | names
            | found
            | {
                "unit": index.manifest["unit"],
                "features": described(index, picks, found["features"]),
            }
        )
    if config.observable is not None:
        return values | _by_observable(index, picks, config, config.observable, say)
    return values | {"features": described(index, picks, looked_up(index, picks, config))}


def _by_observable(
    index: FeatureIndex,
    picks: Picks,
    config: SearchConfig,
    observable: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    from ..fitting.observable_ranking import rank_by_observable
    from ..fitting.trained_config import ObservableConfig
    from ..loading import load_run_of

    loaded = load_run_of(config, say)
    settings = ObservableConfig(observable=observable, site=loaded.site.name)
    found = rank_by_observable(loaded.model, loaded.sae, settings, top=config.top).to_dict()
    features = described(index, picks, found["features"])
    return {"model": loaded.model.name, **found, "features": features}


def looked_up(index: FeatureIndex, picks: Picks, config: SearchConfig) -> list[dict[str, Any]]:
    """What a search finds that needs no language model.

    Raises:
        InputError: there is no such token or feature, or it is a search by text or observable.
    """
    if config.token is not None:
        found: Sequence[Any] = by_token(index, config.token, top=config.top)
    elif config.logit is not None:
        found = by_logit(index, config.logit, top=config.top)
    elif config.label is not None:
        found = by_label(index, picks, config.label, top=config.top)
    elif config.near is not None:
        found = by_neighbor(index, config.near, top=config.top)
    else:
        by = "text" if config.observable is None else "observable"
        raise InputError(f"a search by {by} needs the language model")
    return [asdict(match) for match in found]


def described(
    index: FeatureIndex, picks: Picks, found: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each feature with its label, who wrote that (`label_source`), the tokens on which it fires
    most (`peaks`), its `density` and `max_activation`, and whether it is starred and its verdict.
    """
    machine = machine_labels(index.path.parent, sae=picks.sae)
    by_number = {pick.feature: pick for pick in picks.picks}
    features: list[dict[str, Any]] = []
    for match in found:
        number = int(match["feature"])
        pick = by_number.get(number)
        label, source = (pick.label, pick.label_source) if pick else ("", "person")
        if not label and number in machine:
            label, source = machine[number].label, "machine"
        features.append(
            {
                **match,
                "label": label,
                "label_source": source if label else "",
                "peaks": index.peak_texts(number, PEAK_TEXTS),
                "density": index.statistics["density"][number].item(),
                "max_activation": index.statistics["max_activation"][number].item(),
                "starred": pick is not None and pick.starred,
                "verdict": pick.verdict if pick else "",
            }
        )
    return features
