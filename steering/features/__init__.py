"""What each latent means: examples, statistics, search, and the picks of a person.

Names are loaded when first used, so that reading an index or picks imports no language model.
"""

from typing import TYPE_CHECKING

from ...sae.common.lazy import export_lazily

if TYPE_CHECKING:
    from .build import build_index as build_index
    from .config import BuildConfig as BuildConfig
    from .config import ListConfig as ListConfig
    from .feature import CoActivation as CoActivation
    from .feature import Example as Example
    from .feature import Feature as Feature
    from .feature import QuantileExamples as QuantileExamples
    from .find_config import FindConfig as FindConfig
    from .found_features import FoundFeature as FoundFeature
    from .found_features import Search as Search
    from .index import FeatureIndex as FeatureIndex
    from .listing import interest as interest
    from .listing import list_features as list_features
    from .picks import Pick as Pick
    from .picks import Picks as Picks
    from .search import find_features as find_features
    from .shared_config import SharedConfig as SharedConfig
    from .shared_directions import SharedDirection as SharedDirection
    from .shared_directions import mean_direction as mean_direction
    from .shared_directions import shared_direction as shared_direction

__getattr__, __dir__, __all__ = export_lazily(__name__)
