"""Train sparse autoencoders on language models, pick features, steer text and choose data.

The names that most programs need are here, each loaded when it is first used, so that
`import sparsteer` imports no torch. The rest is in `sparsteer.sae`, `sparsteer.training`,
`sparsteer.steering` and `sparsteer.kernels`; `sparsteer.cli` is the command.
"""

import sys
from typing import TYPE_CHECKING

# `kernels` has no __init__.py, so an editable install finds it through an entry of sys.path alone.
__path__.extend(entry for entry in sys.path if entry.startswith("__editable__.sparsteer"))

from sparsteer.sae.common.lazy import export_lazily  # noqa: E402 - needs the path above

if TYPE_CHECKING:
    from sparsteer.sae import Activation as Activation
    from sparsteer.sae import BatchTopKConfig as BatchTopKConfig
    from sparsteer.sae import ForwardPass as ForwardPass
    from sparsteer.sae import InputError as InputError
    from sparsteer.sae import JumpReLUConfig as JumpReLUConfig
    from sparsteer.sae import LanguageModel as LanguageModel
    from sparsteer.sae import SAEConfig as SAEConfig
    from sparsteer.sae import SparseAutoencoder as SparseAutoencoder
    from sparsteer.sae import TopAFAConfig as TopAFAConfig
    from sparsteer.sae import TopKConfig as TopKConfig
    from sparsteer.sae import register_activation as register_activation
    from sparsteer.sae import register_loss_term as register_loss_term
    from sparsteer.steering import Intervention as Intervention
    from sparsteer.steering import Sampling as Sampling
    from sparsteer.steering import SteeredFeature as SteeredFeature
    from sparsteer.steering import generate as generate
    from sparsteer.steering import load_run as load_run
    from sparsteer.steering import steer as steer
    from sparsteer.steering.features import BuildConfig as BuildConfig
    from sparsteer.steering.features import FeatureIndex as FeatureIndex
    from sparsteer.steering.features import build_index as build_index
    from sparsteer.steering.features import find_features as find_features
    from sparsteer.steering.selection import ScoreConfig as ScoreConfig
    from sparsteer.steering.selection import SelectConfig as SelectConfig
    from sparsteer.steering.selection import score as score
    from sparsteer.steering.selection import select as select
    from sparsteer.training import ActivationCache as ActivationCache
    from sparsteer.training import CacheConfig as CacheConfig
    from sparsteer.training import EvalConfig as EvalConfig
    from sparsteer.training import TrainConfig as TrainConfig
    from sparsteer.training import Trainer as Trainer
    from sparsteer.training import TrainerConfig as TrainerConfig
    from sparsteer.training import cache_activations as cache_activations
    from sparsteer.training.evaluation.evaluation import evaluate as evaluate
    from sparsteer.training.train import train as train

    from ._version import __version__ as __version__

__getattr__, __dir__, __all__ = export_lazily(__name__)
