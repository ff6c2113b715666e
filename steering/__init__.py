"""Features, interventions, detoxification and data selection with a trained autoencoder.

Names are loaded when first used, so that reading a configuration imports no torch.
"""

from typing import TYPE_CHECKING

from ..sae.common.lazy import export_lazily

if TYPE_CHECKING:
    from .config import GenerateConfig as GenerateConfig
    from .config import Sampling as Sampling
    from .config import SteeringChoice as SteeringChoice
    from .export.exporting import export_intervention as export_intervention
    from .export.exporting import export_steering as export_steering
    from .generation import Continuation as Continuation
    from .generation import Generation as Generation
    from .generation import generate as generate
    from .interventions.controls import random_features as random_features
    from .interventions.intervention import Intervention as Intervention
    from .interventions.spec import Cap as Cap
    from .interventions.spec import Edit as Edit
    from .interventions.spec import Gate as Gate
    from .interventions.spec import SteeredFeature as SteeredFeature
    from .interventions.steering import steer as steer
    from .interventions.vectors import Vectors as Vectors
    from .loading import LoadedRun as LoadedRun
    from .loading import load_run as load_run
    from .side_by_side import intervention_of_picks as intervention_of_picks

__getattr__, __dir__, __all__ = export_lazily(__name__)
