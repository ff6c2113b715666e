"""The help of a verb: its options by topic, those that must be given first."""

import contextlib
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

import tyro

from .arguments import Verb, values_without_flag
from .options import CommonOptions, Option, options_of

TOPICS: dict[str, str] = {
    "data": "cache site target-site finetune model model-dtype dataset chunk-rows forward-contexts "
    "context-length text-field chat skip-bad-rows split subset shuffle-buffer dtype "
    "held-out-fraction shard-rows field target-field long-rows max-length rows contexts",
    "sparsity": "activation n-latents k l0 k-start k-anneal-fraction bandwidth target-scale "
    "setting prefixes lista-step multi-topk multi-topk-coefficient afa-coefficient sparsity "
    "sparsity-coefficient target-l0 whitening whitening-shrinkage whitening-loss auxk-coefficient "
    "auxk-fraction k-aux dead-after-tokens loss-term",
    "optimizer": "tokens training-tokens batch-size lr warmup-fraction decay-fraction beta1 beta2 "
    "clip-norm ema-decay",
    "compared": "methods tiers edits cost features least-cosine lineas-steps draws prefix scorer",
    "read": "prompts tuning-prompts tuning-size requests questions problems n-questions shots "
    "n-prompts fit-texts neutral-texts neutral-tokens",
    "texts": "positive negative pairs scored observable models texts neutral held-out "
    "allow-reporting-side",
    "questions": "concept unrelated restated reminders words n-words limit",
    "needle": "value-vectors needle noise",
    "method": "pool answer-token edit-kind score center ridge penalty components variance "
    "coverage edits-of sae map order support support-quantile how positions keep compare",
    "cost": "kl perplexity continuation-perplexity repetition statistic start tolerance "
    "evaluations most-evaluations",
    "training": "steps epochs lr optimizer standardize l1 group-l2 post-steps texts-per-step "
    "largest",
    "steering": "feature picks intervention interventions strength tier threshold edit direction "
    "max-activation",
    "sampling": "n-prompts continuations max-new-tokens temperature top-p top-k min-p "
    "repetition-penalty stop kv-cache",
    "filter": "min-firing min-density max-density max-cosine max-cofiring",
    "evidence": "outputs output-prompt group explain",
    "suite": "parts baselines baseline-l0 part-setting suite-out",
    "server": "port host expose allowed-host token-limit prompt-limit",
    "run": "slots queue grid seed data-seed device device-map precision cuda-graph shards "
    "shard-optimizer log-every log-seconds eval-every eval-minutes eval-rows checkpoint-every "
    "checkpoint-minutes keep-checkpoints track dry-run gpu force part-rows top",
}
"""The options of each topic, in the order in which help shows them."""

WITHOUT_OPTIMIZER = {"tokens": "data", "batch-size": "run"}
"""Other topics of what every pass over texts has, where nothing else is of the optimizer."""

_FEW = 12
"""A verb with no more options has no topics."""

_LEAST = 2
"""Options of a topic that is shown."""


def topics(options: Mapping[str, Option]) -> dict[str, list[Option]]:
    """The options of a verb by topic: in "" the required ones and those of no topic, in "common"
    those of every verb. Of a topic with fewer than `_LEAST` options they stand in the first box."""
    options = dict(options)
    common = {name: options.pop(name) for name in options_of(CommonOptions)}
    boxes: dict[str, list[Option]] = {"": [o for o in options.values() if o.required]}
    free = {name: option for name, option in options.items() if not option.required}
    if len(options) > _FEW:
        for topic, names in _topics_of(free).items():
            found = [name for name in names if name in free]
            if len(found) >= _LEAST:
                boxes[topic] = [free.pop(name) for name in found]
    boxes[""] += free.values()
    return boxes | {"common": list(common.values())}


def _topics_of(options: Collection[str]) -> dict[str, list[str]]:
    """The names of each topic for a verb with these options."""
    found = {topic: names.split() for topic, names in TOPICS.items()}
    if set(found["optimizer"]) & set(options) <= set(WITHOUT_OPTIMIZER):
        del found["optimizer"]
        for name, topic in WITHOUT_OPTIMIZER.items():
            found[topic].insert(0, name)
    return found


def show_help(prog: str, verb: Verb[Any], words: Sequence[str] = ()) -> None:
    """Print what the verb does and its options; only those of the action that the words name."""
    options = verb.options()
    action = _action(verb, words)
    if action:
        before = verb.positional[: verb.positional.index("action")]
        prog = " ".join([prog, *(options.pop(name).shown for name in before), action])
        options = _of_action(options, verb.actions[action])
    boxes = topics(options)
    fields = [_field(option) for option in boxes.pop("")]
    for topic, options in boxes.items():
        box = dataclasses.make_dataclass(topic, [_field(o) for o in options], kw_only=True)
        named = Annotated[tyro.conf.OmitArgPrefixes[box], tyro.conf.arg(name=topic)]
        fields.append((f"topic_{topic}", named, dataclasses.field()))
    with contextlib.suppress(SystemExit):  # tyro ends the program after the help
        tyro.cli(
            dataclasses.make_dataclass("Options", fields, kw_only=True),
            prog=prog,
            description=" ".join((verb.action_help.get(action) or verb.run.__doc__ or "").split()),
            args=["--help"],
            config=(tyro.conf.PositionalMetavarFromFieldName, tyro.conf.FlagCreatePairsOff),
        )


def _action(verb: Verb[Any], words: Sequence[str]) -> str:
    """The action in its place among the words, or before it if what precedes it is left out."""
    if not verb.actions:
        return ""
    values, place = values_without_flag(verb.options(), words), verb.positional.index("action")
    found = (*values[place : place + 1], *values[:place])
    return next((value for value in found if value in verb.actions), "")


def _of_action(options: Mapping[str, Option], taken: Sequence[str]) -> dict[str, Option]:
    """The options that an action takes, what has no flag as required, and those of every verb."""
    of_action = {name: options[name] for name in (*taken, *options_of(CommonOptions))}
    return {
        name: dataclasses.replace(option, default=dataclasses.MISSING)
        if option.positional
        else option
        for name, option in of_action.items()
    }


def _field(option: Option) -> tuple[str, Any, Any]:
    """The option as tyro reads it: name, type with what help says, default."""
    metavar = option.metavar or None
    if option.positional and not option.required:
        metavar = f"[{metavar}]"
    arg = tyro.conf.arg(help=option.help, metavar=metavar, help_behavior_hint=option.default_hint)
    annotated = Annotated[option.type, arg]
    kind = tyro.conf.Positional[annotated] if option.positional else annotated
    return option.name, kind, dataclasses.field(**option.default_keyword())
