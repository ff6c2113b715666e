"""What steering does to a model and its texts: toxicity, fluency, capability, dose, and how sure.

What steers is given as a function without arguments that returns a context manager, so that any way
of steering is measured alike; `contextlib.nullcontext` is the unsteered model. Names are loaded
when first used; `exact_match`, `multiple_choice` and `fire_rate` are modules here, and the
functions of those names are theirs.
"""

from typing import TYPE_CHECKING

from ...sae.common.lazy import export_lazily

if TYPE_CHECKING:
    from .budget import Budget as Budget
    from .calibration import Calibration as Calibration
    from .calibration import calibrate as calibrate
    from .continuations import sample_continuations as sample_continuations
    from .dose import Dose as Dose
    from .dose import dose_of as dose_of
    from .dose import generated_dose as generated_dose
    from .dose import neutral_dose as neutral_dose
    from .equal_cost import at_cost as at_cost
    from .equal_cost import front as front
    from .fire_rate import FireRate as FireRate
    from .fluency import continuation_perplexity as continuation_perplexity
    from .fluency import cost_of as cost_of
    from .fluency import neutral_cost as neutral_cost
    from .fluency import perplexity_of as perplexity_of
    from .fluency import text_fluency as text_fluency
    from .identity import identity_costs as identity_costs
    from .identity import identity_mentions as identity_mentions
    from .multiple_choice import ChoiceResult as ChoiceResult
    from .questions import Problem as Problem
    from .questions import Question as Question
    from .questions import fetched_questions as fetched_questions
    from .questions import read_problems as read_problems
    from .questions import read_questions as read_questions
    from .reading import Steered as Steered
    from .reading import TokenFigures as TokenFigures
    from .reading import read_continuations as read_continuations
    from .reading import read_texts as read_texts
    from .reading import text_tokens as text_tokens
    from .refusals import is_refusal as is_refusal
    from .refusals import refusal_rate as refusal_rate
    from .statistics import Comparison as Comparison
    from .statistics import compare as compare
    from .statistics import compare_with_draws as compare_with_draws
    from .statistics import holm as holm
    from .statistics import mean_over_prompts as mean_over_prompts
    from .statistics import ratio_over_prompts as ratio_over_prompts
    from .strength import CostTexts as CostTexts
    from .strength import cost_function as cost_function
    from .strength import find_strength as find_strength
    from .strength import scaled_steering as scaled_steering
    from .toxicity import ToxicityFigures as ToxicityFigures
    from .toxicity import toxicity_figures as toxicity_figures

__getattr__, __dir__, __all__ = export_lazily(__name__)
