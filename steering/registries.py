"""What of steering is chosen by name: from this package, and from installed ones. Imports no torch.

A new one is a file with it and its line here; in a package of its own, an entry point of the group
(docs/extending.md has an example of each).
"""

from typing import TYPE_CHECKING

from ..sae.common.registry import Registry

if TYPE_CHECKING:
    from .detox.toxicity import Scorer
    from .directions.decoder import Direction
    from .export.formats import SteeringFormat
    from .fitting.method import FitMethod
    from .interventions.edits import Edit
    from .interventions.gates import Gate
    from .selection.methods import Method
    from .suite.part import Part

EDITS: "Registry[Edit]" = Registry(
    "edit", "sparsteer.edits", {"add": f"{__package__}.interventions.edits:add"}
)
"""What an intervention does to an activation."""

GATES: "Registry[type[Gate]]" = Registry(
    "tier",
    "sparsteer.gates",
    {
        "constant": f"{__package__}.interventions.gates:Constant",
        "per_input": f"{__package__}.interventions.gates:PerInput",
        "per_token": f"{__package__}.interventions.gates:PerToken",
    },
)
"""At which positions; the names are those of tiers, from the most to the least aggressive."""

DIRECTIONS: "Registry[Direction]" = Registry(
    "direction",
    "sparsteer.directions",
    {
        "decoder": f"{__package__}.directions.decoder:decoder",
        "random": f"{__package__}.directions.random_latents:random",
    },
)
"""Along which vector, for each of the features."""

FIT_METHODS: "Registry[FitMethod]" = Registry(
    "method",
    "sparsteer.fit_methods",
    {
        name: f"{__package__}.fitting.methods.{name}:METHOD"
        for name in (
            *("mean_difference", "covariance", "principal_component", "whitened_mean", "logistic"),
            *("caa", "cast", "dsas", "ids"),
        )
    },
)
"""How a direction or a gate is fitted to texts."""

SCORERS: "Registry[Scorer]" = Registry(
    "scorer",
    "sparsteer.scorers",
    {"alt-profanity-check": f"{__package__}.detox.profanity_check:profanity_check"},
)
"""How toxic a text is."""

SELECTION_METHODS: "Registry[Method]" = Registry(
    "method",
    "sparsteer.selection_methods",
    {
        name: f"{__package__}.selection.methods:{name}"
        for name in ("jaccard", "random", "length", "mean_activation")
    },
)
"""How well a row suits a target."""

STEERING_FORMATS: "Registry[SteeringFormat]" = Registry(
    "format",
    "sparsteer.steering_formats",
    {
        "lm-eval": f"{__package__}.export.lm_eval",
        "gguf": f"{__package__}.export.control_vector:llama_cpp",
        "easysteer": f"{__package__}.export.control_vector:easysteer",
        "hotwire": f"{__package__}.export.hotwire",
        "transformers": f"{__package__}.export.transformers_folder",
    },
)
"""As what an intervention is exported for other tools."""

SUITE_PARTS: "Registry[Part]" = Registry(
    "part",
    "sparsteer.suite_parts",
    {
        "held_out": f"{__package__}.suite.parts.held_out:HELD_OUT",
        "classes": f"{__package__}.suite.parts.classes:CLASSES",
        "probing": f"{__package__}.suite.parts.probing:PROBING",
        "meaning": f"{__package__}.suite.parts.meaning:MEANING",
        "judge": f"{__package__}.suite.parts.judge:JUDGE",
        "stability": f"{__package__}.suite.parts.stability:STABILITY",
        "prefixes": f"{__package__}.suite.parts.prefixes:PREFIXES",
        "absorption": f"{__package__}.suite.parts.absorption:ABSORPTION",
        "ground_truth": f"{__package__}.suite.parts.ground_truth:GROUND_TRUTH",
    },
)
"""What the evaluation suite measures, in the order in which it is shown."""
