"""Corpora, the activation cache, and the training of autoencoders on it.

Names are loaded when first used, so that reading a configuration imports no torch.
"""

from typing import TYPE_CHECKING

from ..sae.common.lazy import export_lazily

if TYPE_CHECKING:
    from .config import TrainConfig as TrainConfig
    from .data.cache.config import CacheConfig as CacheConfig
    from .data.cache.reader import ActivationCache as ActivationCache
    from .data.cache.writer import cache_activations as cache_activations
    from .evaluation.config import EvalConfig as EvalConfig
    from .evaluation.ground_truth.benchmark import ground_truth as ground_truth
    from .evaluation.ground_truth.config import GroundTruthSettings as GroundTruthSettings
    from .evaluation.probing.config import ProbingSettings as ProbingSettings
    from .evaluation.probing.probing import probe as probe
    from .evaluation.site.site_check import check_site as check_site
    from .evaluation.site.site_check_config import SiteCheckConfig as SiteCheckConfig
    from .graph_trainer import GraphTrainer as GraphTrainer
    from .initialize import initialize_from_rows as initialize_from_rows
    from .trainer import Trainer as Trainer
    from .trainer_config import TrainerConfig as TrainerConfig

__getattr__, __dir__, __all__ = export_lazily(__name__)
