"""Label the features of a run, one after the other, each saved when it is done."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...sae.common.devices import resolve_device
from ...sae.common.errors import InputError
from ...sae.common.wording import count, counted, utc_now
from ..features.index import FeatureIndex
from ..features.listing import picks_of, ranked
from .answers import BadAnswer
from .chat_client import server_address
from .config import LOCAL, LabelConfig
from .estimate import Estimate, estimate, estimate_local
from .evidence import Evidence, HeldOut, evidence_of, held_out_of, other_examples
from .labeler import Labeler
from .machine_label import Detection, MachineLabel
from .prompts import METHOD, ask_for_label
from .server_labeler import connected
from .store import LabelStore

_EXAMPLES = 12
"""Shown for a label: half of the largest activations, half of middling ones."""
_SEED = 0
"""Of the choice and the order of the texts that are judged: the same for every model."""

Report = Callable[[int, int, str], None]
"""Told the features done, all of them, and the last label."""


@dataclass(frozen=True)
class _Work:
    """A feature to label."""

    feature: int
    evidence: Evidence
    held_out: list[HeldOut]


def label_features(
    config: LabelConfig,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    report: Report = lambda done, total, more: None,
    labeler: Labeler | None = None,
) -> dict[str, Any]:
    """Label features, and score each label by detection on examples that were not shown for it.

    Every label is on the disk before the next feature is begun, so that the same call goes on after
    any end. Labels of the picks, which a person wrote, are not touched.

    Args:
        config: what to label, and whom to ask.
        say: told the cost before anything is asked, and every wait.
        report: told of progress.
        labeler: whom to ask; by default who the configuration names.

    Returns:
        run, endpoint, model, estimate, and of a dry run `prompt`; else `labels` (each as
        `MachineLabel.to_dict`), `rejected` (features and reasons), `answers_rejected` (reasons and
        how often), requests, repeated, tokens_in and tokens_out; and `left_alone`: features that
        have a label already, by a person or (`labeled_before`) by a model.

    Raises:
        InputError: no such run, index, feature or model, or the server refuses the request.
        EndpointError: the server failed more often than it is asked again.
    """
    resolve_device(config.device)  # wrong also where a server is asked and none is needed
    local = config.endpoint == LOCAL
    if not local:
        server_address(config.endpoint)  # wrong also where a dry run asks nobody
    index = FeatureIndex.of_run(config.run)
    store = LabelStore(config.run, sae=index.manifest["sae"])
    numbers, by_person, by_model = _chosen(config, index, store)
    work = _prepared(config, index, numbers)
    parts = [(each.evidence, each.held_out) for each in work]
    cost = estimate_local(parts) if local else estimate(parts)
    say(_cost_sentence(cost, config))
    values: dict[str, Any] = {
        "run": config.run,
        "endpoint": config.endpoint,
        "model": config.model,
        "estimate": asdict(cost),
        "left_alone": {"labeled_by_a_person": by_person, "labeled_before": by_model},
    }
    if config.dry_run:
        prompt = ask_for_label(work[0].evidence) if work and not local else None
        return {**values, "dry_run": True, "prompt": prompt}
    if not work:
        return {**values, **_outcome([], {}, None)}
    with store.writing():
        labeler = labeler or _labeler(config, index, say)
        labels: list[MachineLabel] = []
        rejected: dict[int, str] = {}
        for number, each in enumerate(work, start=1):
            try:
                label = _labeled(each, labeler)
            except BadAnswer as error:
                store.reject(each.feature, str(error), model=labeler.name)
                rejected[each.feature] = str(error)
                report(number, len(work), f"{each.feature}: rejected ({error})")
                continue
            store.add(label)
            labels.append(label)
            report(number, len(work), f"{each.feature}: {label.label}")
    return {
        **values,
        "endpoint": labeler.address,
        "model": labeler.name,
        **_outcome(labels, rejected, labeler),
    }


def _chosen(
    config: LabelConfig, index: FeatureIndex, store: LabelStore
) -> tuple[list[int], list[int], list[int]]:
    """The features to label, and those that would be but have a label, by a person or a model."""
    picks = picks_of(index)
    order = list(config.feature)
    if not order:
        interesting = ranked(index, "interest")
        alive = set(interesting)
        picked = [feature for feature in picks if feature in alive]
        order = list(dict.fromkeys([*picked, *interesting]))
    for feature in order[: len(config.feature)]:
        if not index.feature(feature).fired:
            raise InputError(f"feature {feature} never fired, so there is nothing to label it by")
    by_person = [
        f for f in order if f in picks and picks[f].label and picks[f].label_source == "person"
    ]
    order = [f for f in order if f not in by_person]
    if not config.feature:
        order = order[: config.top]
    known = set[int]() if config.again else {*store.labels, *store.rejected}
    by_model = [feature for feature in order if feature in known]
    return [feature for feature in order if feature not in known], by_person, by_model


def _prepared(config: LabelConfig, index: FeatureIndex, numbers: Sequence[int]) -> list[_Work]:
    draw_other = other_examples(index, _SEED)
    work: list[_Work] = []
    for number in numbers:
        feature = index.feature(number)
        evidence = evidence_of(feature, _EXAMPLES)
        held_out = held_out_of(feature, evidence, config.judged, draw_other=draw_other, seed=_SEED)
        work.append(_Work(number, evidence, held_out))
    return work


def _labeler(config: LabelConfig, index: FeatureIndex, say: Callable[[str], None]) -> Labeler:
    if config.endpoint == LOCAL:
        from ...sae.language_model.model import LanguageModel
        from .local_labeler import LocalLabeler

        name = config.model or index.manifest.get("model")
        if not name:
            raise InputError("model is missing, and the index names none; give --model NAME")
        say(f"labels by {name} in this process; small models label badly, so look at the scores")
        return LocalLabeler(LanguageModel.load(str(name), device=config.device, progress=say))
    return connected(
        config.endpoint,
        model=config.model,
        api_key_env=config.api_key_env,
        timeout=config.timeout,
        answer_tokens=config.answer_tokens,
        say=say,
    )


def _labeled(work: _Work, labeler: Labeler) -> MachineLabel:
    """The label of a feature with its score, None if the judgment cannot be used."""
    label = labeler.label(work.evidence)
    detection = None
    if work.held_out:
        try:
            fitting = labeler.fitting(label, [text.text for text in work.held_out])
            detection = _detection(work.held_out, fitting)
        except BadAnswer:  # counted by the labeler; the label itself is none the worse
            pass
    return MachineLabel(
        feature=work.feature,
        label=label,
        model=labeler.name,
        endpoint=labeler.address,
        method=METHOD,
        detection=detection,
        made=utc_now(),
    )


def _detection(held_out: Sequence[HeldOut], fitting: set[int]) -> Detection:
    said = [(text.kind, number in fitting) for number, text in enumerate(held_out, start=1)]
    return Detection(
        positives=sum(kind == "positive" for kind, _ in said),
        found=said.count(("positive", True)),
        near_misses=sum(kind == "near_miss" for kind, _ in said),
        near_misses_refused=said.count(("near_miss", False)),
        others=sum(kind == "other" for kind, _ in said),
        others_refused=said.count(("other", False)),
    )


def _outcome(
    labels: Sequence[MachineLabel], rejected: dict[int, str], labeler: Labeler | None
) -> dict[str, Any]:
    usage = labeler.usage if labeler else None
    return {
        "dry_run": False,
        "labels": [label.to_dict() for label in labels],
        "rejected": [{"feature": f, "reason": reason} for f, reason in rejected.items()],
        "answers_rejected": usage.rejected if usage else {},
        "requests": usage.requests if usage else 0,
        "repeated": usage.repeated if usage else 0,
        "tokens_in": usage.tokens_in if usage else 0,
        "tokens_out": usage.tokens_out if usage else 0,
    }


def _cost_sentence(cost: Estimate, config: LabelConfig) -> str:
    if not cost.features:
        return "nothing to ask: every feature has a label, or its answers were rejected before"
    if cost.tokens_in is None or cost.tokens_out is None:
        return (
            f"{counted(cost.features, 'feature')} to label with the model in this process, which "
            f"reads {counted(cost.requests, 'text')} for that"
        )
    return (
        f"{counted(cost.features, 'feature')} take {counted(cost.requests, 'request')} to "
        f"{config.endpoint}, about {count(cost.tokens_in)} tokens in and {count(cost.tokens_out)} "
        "out; more where answers are rejected, or thoughts are written down"
    )
