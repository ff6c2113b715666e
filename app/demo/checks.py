"""What a demo needs, looked at before it works and writes: minutes are lost otherwise."""

from collections.abc import Callable

from ...sae.common.devices import resolve_device
from ...sae.common.errors import InputError
from ...sae.fetching.fetch import ARTIFACTS, fetch, is_fetched
from ...training.data.cache.reader import ActivationCache
from ...training.data.corpus import open_corpus
from ..report.files import require_page_replaceable
from .application import instruction_rows
from .config import DEMO_ACTIVATIONS, OWN, DemoConfig


def fetched_names(config: DemoConfig) -> list[str]:
    """What of the demo is fetched by name."""
    names = (config.model, config.dataset, "rtp-prompts", config.instructions)
    return [name for name in dict.fromkeys(names) if name in ARTIFACTS]


def require_possible(config: DemoConfig, say: Callable[[str], None]) -> None:
    """Fetch what is missing, and raise InputError if the demo cannot be run as it is configured.

    Raises:
        InputError: device, model, text or instruction rows are not there or do not suit; sizes do
            not suit the model; or another page is where the report goes.
    """
    require_page_replaceable(config.report)
    resolve_device(config.device)
    for name in fetched_names(config):
        if not is_fetched(name):
            fetch(name, progress=say)
    open_corpus(config.dataset)
    if not config.steers_own:
        _require_features(config)
    instruction_rows(config)
    if (width := _width(config)) is not None:
        for activation in DEMO_ACTIVATIONS:
            config.train_config(activation).sae_config(width)


def _require_features(config: DemoConfig) -> None:
    """Raise InputError if the dictionary that is given has no feature index, or is of another
    language model."""
    from ...sae.autoencoder import SparseAutoencoder
    from ...steering.features.index import FeatureIndex

    FeatureIndex.of_run(config.steered)
    origin = SparseAutoencoder.load(config.steered).origin
    if origin is not None and origin.model != config.model:
        raise InputError(
            f"dictionary is {config.steered}, which was trained on {origin.model}, but the model "
            f"is {config.model}; give --model {origin.model}, or --dictionary {OWN}",
            field="dictionary",
        )


def _width(config: DemoConfig) -> int | None:
    """D of the activations as the cache or the model's configuration has it; None if unknown."""
    try:
        return ActivationCache(config.cache).d_model
    except InputError:
        from ...sae.language_model.loading import hidden_size
        from ...sae.language_model.locating import locate

        return hidden_size(locate(config.model, lambda message: None))
