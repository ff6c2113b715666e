"""The verb `steer trace`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..sae.common.wording import count, counted, percent
from ..steering.trace.config import TraceConfig
from .console import Report, Terminal, headed_grid

if TYPE_CHECKING:
    from rich.console import RenderableType

_VECTORS_SHOWN = 10
_LAYERS_SHOWN = 6
_TOKENS_SHOWN = 5


def run(config: TraceConfig, terminal: Terminal) -> Report:
    """Ask whether steering removes what a model knows of a concept, or only hides it.

    INTERVENTION is a JSON file or a folder, such as `steer fit` writes. Questions about the concept
    and unrelated ones are answered by the model as it is, steered, with the MLP value vectors
    nearest to the concept's direction taken away (the needle), and with others taken away. The
    table has how far answers change, how much the concept's neurons still write, and how likely its
    words are behind each layer.
    """
    from ..steering.trace.tracing import trace

    values = trace(config, say=terminal.say)
    shown: list[RenderableType] = [
        f"tokens of the concept: {_quoted(values['concept_tokens'])}",
        "",
        *_value_vectors(values),
        "",
        *_answers(values["conditions"]),
        "",
        *_insides(values["conditions"]),
    ]
    if config.out is not None:
        shown.append(f"written: {config.out}")
    return Report(values=values, shown=shown, warnings=values["cautions"])


def _value_vectors(values: Mapping[str, Any]) -> "list[RenderableType]":
    vectors: Sequence[Mapping[str, Any]] = values["value_vectors"]
    grid = headed_grid(">layer", ">neuron", ">cosine", ">overlap", "steered", "tokens it raises")
    for each in vectors[:_VECTORS_SHOWN]:
        grid.add_row(
            count(each["layer"]),
            count(each["neuron"]),
            f"{each['cosine']:+.2f}",
            percent(each["overlap"]),
            "before" if each["behind"] else "behind",
            _quoted(each["tokens"][:_TOKENS_SHOWN]),
        )
    left = len(vectors) - _VECTORS_SHOWN
    done = "are set to 0" if values["needle"] == "zero" else f"get noise of {values['noise']:g}"
    return [
        f"nearest to the concept's direction: {counted(len(vectors), 'MLP value vector')}, which "
        f"{done} by the needle (of random ones the nearest would have a cosine of about "
        f"{values['chance_cosine']:.2f}); the model is steered before or behind each:",
        grid,
        *([f"and {count(left)} more, which --json has"] if left > 0 else []),
    ]


def _answers(conditions: Sequence[Mapping[str, Any]]) -> "list[RenderableType]":
    kinds: list[str] = list(conditions[0]["answers"])
    grid = headed_grid("", *(f">{kind}" for kind in kinds), ">concept - unrelated")
    likeness = headed_grid("", *(f">{kind}" for kind in kinds))
    for each in conditions[1:]:
        of_kind = each["answers"]
        rises = (_interval(of_kind[kind]["loss_rise"]) for kind in kinds)
        grid.add_row(_name(each), *rises, _interval(each["selectivity"]))
        likeness.add_row(_name(each), *(_interval(of_kind[kind]["rouge_l"]) for kind in kinds))
    back = [
        f"{_name(each)}: {kind} questions undo {percent(share)} of the rise on the concept's"
        for each in conditions[1:]
        for kind, share in each["recovered"].items()
        if share is not None
    ]
    return [
        "rise in the loss of the untouched model's own answers, in nats a token (95% interval over "
        "questions):",
        grid,
        *back,
        "",
        "likeness of the answers to the untouched model's (ROUGE-L; 1 is the same words):",
        likeness,
    ]


def _insides(conditions: Sequence[Mapping[str, Any]]) -> "list[RenderableType]":
    n_layers = len(conditions[0]["lens"])
    layers = sorted(
        {n_layers - 1 - n * (n_layers - 1) // _LAYERS_SHOWN for n in range(_LAYERS_SHOWN)}
    )
    kept = headed_grid("", ">neurons before the steering", ">neurons behind it")
    lens = headed_grid("", *(f">layer {layer}" for layer in layers))
    for each in conditions:
        kept.add_row(_name(each), _interval(each["kept_before"]), _interval(each["kept"]))
        lens.add_row(_name(each), *(f"{each['lens'][layer]['mean']:.2g}" for layer in layers))
    return [
        "what is left of what these neurons write along their value vectors, at questions about "
        "the concept (1 is all of it):",
        kept,
        "",
        "probability of the concept's tokens behind layers, by the logit lens, and behind the last "
        "by the model:",
        lens,
    ]


def _name(condition: Mapping[str, Any]) -> str:
    draws = condition["draws"]
    return condition["name"] if draws == 1 else f"{condition['name']} (mean of {draws})"


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["ci"]
    return f"{found['mean']:.2f} ({low:.2f} to {high:.2f})"


def _quoted(tokens: Sequence[str]) -> str:
    return ", ".join(f"'{token}'" for token in tokens)
