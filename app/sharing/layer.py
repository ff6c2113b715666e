"""What Neuronpedia and SAEDashboard call a language model, a layer and a set of autoencoders."""

import re
from dataclasses import dataclass

from ...sae.common.errors import InputError
from .chosen import Chosen
from .config import ShareConfig

_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
_SITES = {"resid": "res", "mlp": "mlp", "attn": "att"}


@dataclass(frozen=True)
class Place:
    """Where the features of a run belong in those layouts."""

    model_id: str
    layer: int
    site: str
    """The name of the place in the language model, as the run has it."""
    source_set: str

    @property
    def source_id(self) -> str:
        """The set in this layer, such as 12-res-16k."""
        return f"{self.layer}-{self.source_set}"

    @property
    def hook_point(self) -> str:
        """The site without the layer, such as hook_resid_post."""
        return re.sub(r"^blocks\.\d+\.", "", self.site)


def place_of(chosen: Chosen, config: ShareConfig) -> Place:
    """The names for a run, those that the configuration leaves out made from the run's.

    Raises:
        InputError: the site is in no layer, which both layouts ask for, or the index names no
            language model.
    """
    manifest = chosen.index.manifest
    site = str(manifest["site"])
    layer = _LAYER.search(site)
    if layer is None:
        raise InputError(
            f"the site {site} is in no layer, which --format {config.format} asks for; "
            "write --format static"
        )
    model = config.model_id or str(manifest.get("model", "")).rstrip("/").rpartition("/")[2]
    if not model:
        raise InputError("model_id is missing, and the index names no model; give --model-id NAME")
    kind = next((short for word, short in _SITES.items() if word in site), "sae")
    width = chosen.index.n_latents
    size = f"{width >> 10}k" if width >= 1024 else str(width)
    return Place(model, int(layer[1]), site, config.source_set or f"{kind}-{size}")
