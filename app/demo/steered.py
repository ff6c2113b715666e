"""The sections about the features of toxic prompts, and about steering with them."""

from collections.abc import Sequence
from typing import Any

from ...sae.common.wording import percent
from ...steering.detox.measure import BASE, RANDOM_FEATURE
from ...steering.interventions.intervention import TIERS
from ..report.markup import Html, join, table, tag
from .application import picked_features
from .config import STEERED
from .report_context import ReportContext, bars_for_page

_TIER_WORDS = {
    "constant": "every token is pushed",
    "per_input": "a text is pushed once a feature fires in it",
    "per_token": "only tokens at which a feature fires",
}


def features(context: ReportContext) -> Html:
    """Which features are more active in toxic prompts than in ordinary text."""
    found = context.result("features")
    texts = found["positive"]["texts"]
    what = (
        f"{texts:,} prompts of the toxic kind (RealToxicityPrompts, its tuning side) and as many "
        f"fragments of “{context.config.dataset}”, cut to the same numbers of words, were read "
        f"with {context.steered}. AUROC is the chance that a feature is, on "
        "average over a text, more active in a random prompt than in a random fragment: 0.5 says "
        f"nothing, 1 tells all apart. Of {found['considered']:,} features that fire in a tenth of "
        f"the prompts these are the best; with shuffled labels the best reaches "
        f"{found['chance']:.2f}, and the length of a text alone {found['length_auroc']:.2f}."
    )
    rows = [
        [
            tag("code", str(feature["feature"])),
            f"{feature['auroc_mean']:.2f}",
            percent(feature["firing_positive"]),
            percent(feature["firing_negative"]),
            join(*(join(tag("code", token), " ") for token in feature["tokens"])),
        ]
        for feature in picked_features(context.config, found)
    ]
    head = ["Feature", "AUROC", "fires in prompts", "in fragments", "strongest at the tokens"]
    caution = (
        "AUROC says that the two kinds of text differ in a feature, not that the feature means "
        "toxicity: their style and their subjects differ too. The tokens at which it is strongest "
        "in the corpus help to judge; so does ",
        tag("code", f"sparsteer features show {context.config.steered} N"),
        ". A corpus with no insults in it teaches no feature of insults.",
    )
    picked = picked_features(context.config, found)
    return tag(
        "section",
        tag("h2", "Features of toxic prompts"),
        tag("p", what),
        table(head, rows, class_="plain"),
        *(_where_strongest(feature) for feature in picked),
        tag("p", join(*caution)),
        id="features",
    )


def _where_strongest(feature: dict[str, Any]) -> Html:
    """The examples of the index at which a feature is most active, the peak marked."""
    places = [
        tag("li", join(example["before"], tag("mark", example["peak"]), example["after"]))
        for example in feature["examples"]
    ]
    words = f"Where feature {feature['feature']} is most active in the text of its index"
    return tag("details", tag("summary", words), tag("ul", places))


def steering(context: ReportContext) -> Html:
    """How toxic continuations are under each tier and under random pushes."""
    config, found = context.config, context.result("steering")
    conditions: dict[str, dict[str, Any]] = found["conditions"]
    n_features = len(picked_features(config, context.result("features")))
    towards = "away from" if config.strength < 0 else "towards"
    what = (
        f"{found['prompts']:,} other prompts (the reporting side, from which nothing was chosen) "
        f"were continued by {config.new_tokens} tokens: by the model as it is, and while its "
        f"activations are pushed {towards} the {n_features} features above, each by "
        f"{abs(config.strength):g} times its largest activation. The random pushes go along one "
        "random feature each, at every token, and are as long. All draw the same random numbers. "
        f"Toxicity, from 0 to 1, is what the scorer {config.scorer} says."
    )
    rows = [_row(name, measured) for name, measured in conditions.items()]
    head = [
        "Condition",
        "toxicity",
        "above ½",
        "change ± error",
        "repeats",
        "texts pushed",
        "changed",
    ]
    bars = [(_short(name), c["mean"], _kind(name)) for name, c in conditions.items()]
    figure = tag(
        "figure",
        bars_for_page("Toxicity of the texts", "mean toxicity (probability)", bars, 3),
        tag(
            "figcaption",
            "Lower is less toxic. What the features' meaning does is the difference from the "
            "random pushes, not from the base.",
        ),
    )
    return tag(
        "section",
        tag("h2", "Steering with them"),
        tag("p", what),
        table(head, rows, class_="plain"),
        tag("div", figure, class_="figures"),
        tag("ul", [tag("li", point) for point in _verdicts(found, config.strength)]),
        _examples(found["examples"], conditions),
        id="steering",
    )


def random_means(conditions: dict[str, dict[str, Any]]) -> list[float]:
    """The mean toxicity under each random feature."""
    return [found["mean"] for name, found in conditions.items() if RANDOM_FEATURE in name]


def _row(name: str, found: dict[str, Any]) -> list[Html]:
    error = found["change_standard_error"]
    change = "" if name == BASE else f"{found['change']:+.3f}"
    if change and error is not None:
        change += f" ± {error:.3f}"
    words = _TIER_WORDS.get(name, "")
    label = join(_short(name), *([tag("br"), tag("small", words)] if words else []))
    return [
        label,
        join(f"{found['mean']:.3f}"),
        join(percent(found["fraction"])),
        join(change),
        join(percent(found["repetition"])),
        join("" if name == BASE else percent(found["steered"])),
        join("" if name == BASE else percent(found["changed"])),
    ]


def _short(name: str) -> str:
    if RANDOM_FEATURE in name:
        number = name.removeprefix(RANDOM_FEATURE).strip("_") or "1"
        return f"random push {number}"
    return "unsteered" if name == BASE else name.replace("_", " ")


def _kind(name: str) -> str | None:
    """The autoencoder whose features steer; None for the controls."""
    return STEERED if name in TIERS else None


def _verdicts(found: dict[str, Any], strength: float) -> list[str]:
    word, score = next(iter(found["identity_bias"].items()))
    return [
        _against_random(found, strength),
        "Toxicity and repetition are all that is measured here: whether the texts still make "
        "sense is not. Read some below.",
        f"The scorer may know words, not meaning: “I am {word} and I love my family.” scores "
        f"{score:.2f}. Fewer such words also count as less toxicity.",
        "One seed and few prompts: a change of less than two standard errors is no change.",
    ]


def _against_random(found: dict[str, Any], strength: float) -> str:
    """What constant steering does beyond random pushes of its size."""
    if strength == 0:
        return "At strength 0 nothing is pushed, and all texts are the same."
    conditions, against = found["conditions"], found["against_random"]
    difference, error = against["difference"], against["standard_error"]
    randoms, base = random_means(conditions), conditions[BASE]["mean"]
    shown = f"{difference:+.3f}" + ("" if error is None else f" ± {error:.3f}")
    between = f"{min(randoms):.3f} to {max(randoms):.3f} under {len(randoms)} of them"
    if error is None or abs(difference) < 2 * error:
        return (
            f"Constant steering ({conditions['constant']['mean']:.3f}) cannot be told apart from "
            f"random pushes of its size ({between}; {shown} beside their mean): the change may be "
            "that of any such push, not of the features' meaning."
        )
    less = "less" if difference < 0 else "more"
    text = (
        f"Constant steering ({conditions['constant']['mean']:.3f}) leaves {less} toxicity than "
        f"random pushes of its size ({between}; {shown} beside their mean)"
    )
    change, by_random = conditions["constant"]["mean"] - base, sum(randoms) / len(randoms) - base
    if change * by_random <= 0:
        return f"{text}, which alone do not change it in that direction."
    return f"{text}, which alone make {by_random / change:.0%} of its change."


def _examples(prompts: Sequence[str], conditions: dict[str, dict[str, Any]]) -> Html:
    shown = (BASE, *TIERS, RANDOM_FEATURE)
    blocks: list[Html] = []
    for number, prompt in enumerate(prompts):
        rows = [
            [_short(name), conditions[name]["continuations"][number].strip() or "(nothing)"]
            for name in shown
        ]
        blocks.append(table(["Prompt", prompt], rows, class_="facts"))
    return tag(
        "details",
        tag("summary", "The first texts, unchosen: the prompts are offensive by design"),
        join(*blocks),
    )
