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
    from .interventions.edits.base import EditRule
    from .interventions.gates.base import GateRule
    from .selection.methods import Method
    from .study.arms.method import StudyMethod
    from .suite.part import Part

EDITS: "Registry[type[EditRule]]" = Registry(
    "edit",
    "sparsteer.edits",
    {
        "add": f"{__package__}.interventions.edits.adding:Add",
        "clamp": f"{__package__}.interventions.edits.latents:Clamp",
        "min_clamp": f"{__package__}.interventions.edits.latents:MinClamp",
        "ablate": f"{__package__}.interventions.edits.latents:Ablate",
        "project_out": f"{__package__}.interventions.edits.projection:ProjectOut",
        "latents": f"{__package__}.interventions.edits.latents:LatentMap",
        "diagonal": f"{__package__}.interventions.edits.affine:Diagonal",
        "lowrank": f"{__package__}.interventions.edits.affine:LowRank",
        "rotate": f"{__package__}.interventions.edits.rotation:Rotate",
    },
)
"""What an intervention does to an activation."""

FEATURE_EDITS = EDITS.without(
    "latents", "diagonal", "lowrank", "rotate", remedy="give --intervention FOLDER that has them"
)
"""Those edits for which features are enough."""

GATES: "Registry[type[GateRule]]" = Registry(
    "tier",
    "sparsteer.gates",
    {
        "constant": f"{__package__}.interventions.gates.tiers:Constant",
        "per_input": f"{__package__}.interventions.gates.tiers:PerInput",
        "per_token": f"{__package__}.interventions.gates.tiers:PerToken",
        "cosine": f"{__package__}.interventions.gates.fitted:Cosine",
        "logistic": f"{__package__}.interventions.gates.fitted:Logistic",
        "probe": f"{__package__}.interventions.gates.fitted:Probe",
    },
)
"""At which positions; the first three are the tiers, from the most to the least aggressive."""

FEATURE_GATES = GATES.without(
    "cosine", "logistic", "probe", remedy="give --intervention FOLDER that has them"
)
"""Those gates for which features are enough: the tiers, and what packages add."""

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
            *("caa", "cast", "dsas", "ids", "lin_act", "lineas", "observable", "model_pair"),
            "reft_r1",
        )
    },
)
"""How a direction, a map or a gate is fitted to texts, or to models."""

SCORERS: "Registry[Scorer]" = Registry(
    "scorer",
    "sparsteer.scorers",
    {
        "alt-profanity-check": f"{__package__}.detox.profanity_check:profanity_check",
        "toxicity-ngrams": f"{__package__}.detox.ngram_scorer:ngram_toxicity",
        "detoxify": f"{__package__}.detox.classifier_scorer:detoxify",
    },
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

STUDY_METHODS: "Registry[StudyMethod]" = Registry(
    "method",
    "sparsteer.study_methods",
    {
        "none": f"{__package__}.study.arms.plain:NONE",
        "sae": f"{__package__}.study.arms.features:SAE",
        "sae_group": f"{__package__}.study.arms.features:SAE_GROUP",
        "sae_group_mean": f"{__package__}.study.arms.group_mean:SAE_GROUP_MEAN",
        "mean_difference": f"{__package__}.study.arms.fitted:MEAN_DIFFERENCE",
        "project_out": f"{__package__}.study.arms.fitted:PROJECT_OUT",
        "lineas": f"{__package__}.study.arms.fitted:LINEAS",
        "cast": f"{__package__}.study.arms.fitted:CAST",
        "dsas": f"{__package__}.study.arms.fitted:DSAS",
        "random_direction": f"{__package__}.study.arms.at_random:RANDOM_DIRECTION",
        "random_latent": f"{__package__}.study.arms.at_random:RANDOM_LATENT",
        "prompt": f"{__package__}.study.arms.plain:PROMPT",
    },
)
"""What a study of steering compares, in the order in which it is shown."""
