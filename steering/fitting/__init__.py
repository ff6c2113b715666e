"""Directions, maps and gates of steering, fitted to texts.

Names are loaded when first used, so that reading a configuration imports no torch.
"""

from typing import TYPE_CHECKING

from ...sae.common.lazy import export_lazily

if TYPE_CHECKING:
    from .config import FitConfig as FitConfig
    from .fitted import FitReport as FitReport
    from .fitted import Fitted as Fitted
    from .fitting import fit as fit
    from .saving import load_fitted as load_fitted
    from .saving import save_fitted as save_fitted
    from .shift import Shift as Shift
    from .shift import measure_shift as measure_shift

__getattr__, __dir__, __all__ = export_lazily(__name__)
