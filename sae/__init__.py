"""The sparse autoencoder, its file format, and the site in a language model that it reads.

Names are loaded when first used, so that reading a configuration imports no torch.
"""

from typing import TYPE_CHECKING

from .common.lazy import export_lazily

if TYPE_CHECKING:
    from .activations.base import Activation as Activation
    from .activations.base import register_activation as register_activation
    from .autoencoder import SparseAutoencoder as SparseAutoencoder
    from .common.errors import InputError as InputError
    from .config import BatchTopKConfig as BatchTopKConfig
    from .config import GatedConfig as GatedConfig
    from .config import JumpReLUConfig as JumpReLUConfig
    from .config import Origin as Origin
    from .config import ReLUConfig as ReLUConfig
    from .config import SAEConfig as SAEConfig
    from .config import TopAFAConfig as TopAFAConfig
    from .config import TopKConfig as TopKConfig
    from .language_model.model import LanguageModel as LanguageModel
    from .language_model.sites import Site as Site
    from .losses import ForwardPass as ForwardPass
    from .losses import register_loss_term as register_loss_term

__getattr__, __dir__, __all__ = export_lazily(__name__)
