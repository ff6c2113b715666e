"""Toxicity of generated text: prompts, scorer, measurements.

Names are loaded when first used. `toxicity` and `measure` are modules here; the functions of those
names are theirs.
"""

from typing import TYPE_CHECKING

from ...sae.common.lazy import export_lazily

if TYPE_CHECKING:
    from ...training.data.prompt_sides import side_of as side_of
    from .measure import measure_tiers as measure_tiers
    from .prompts import Prompt as Prompt
    from .prompts import prompts_of as prompts_of
    from .toxicity import Toxicity as Toxicity
    from .toxicity import identity_bias as identity_bias
    from .toxicity import toxicity_scores as toxicity_scores

__getattr__, __dir__, __all__ = export_lazily(__name__)
