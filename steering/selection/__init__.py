"""Instruction data scored and selected by its likeness to a target task.

Names are loaded when first used, so that a configuration imports no torch.
"""

from typing import TYPE_CHECKING

from ...sae.common.lazy import export_lazily

if TYPE_CHECKING:
    from .config import ExplainConfig as ExplainConfig
    from .config import ScoreConfig as ScoreConfig
    from .config import SelectConfig as SelectConfig
    from .embedding import SparseRows as SparseRows
    from .explaining import Explainer as Explainer
    from .explaining import Explanation as Explanation
    from .explaining import explain as explain
    from .jaccard import generalized_jaccard as generalized_jaccard
    from .scored_file import ScoredFile as ScoredFile
    from .scoring import score as score
    from .selecting import select as select
    from .targets import Selection as Selection
    from .targets import retrieval_precision as retrieval_precision
    from .targets import select_for_target as select_for_target

__getattr__, __dir__, __all__ = export_lazily(__name__)
