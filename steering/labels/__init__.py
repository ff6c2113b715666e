"""Labels of features that a language model wrote, each with how well it held on unseen examples.

Names are loaded when first used, so that reading labels imports no language model.
"""

from typing import TYPE_CHECKING

from ...sae.common.lazy import export_lazily

if TYPE_CHECKING:
    from .config import LabelConfig as LabelConfig
    from .labeling import label_features as label_features
    from .machine_label import Detection as Detection
    from .machine_label import MachineLabel as MachineLabel
    from .store import LabelStore as LabelStore
    from .store import machine_labels as machine_labels

__getattr__, __dir__, __all__ = export_lazily(__name__)
