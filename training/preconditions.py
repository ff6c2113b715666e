"""What training requires before any folder is changed; its dry run requires the same."""

from collections.abc import Sequence
from typing import Any

from ..sae.common.errors import InputError
from ..sae.config import config_to_dict
from .config import TrainConfig, require_other_site
from .data.activation_source import ActivationSource
from .data.settings import plain, to_plain
from .distributed.sharded import require_shards
from .finetuning import Start
from .open_settings import DERIVED
from .run import RESOLVED_PRECISION
from .tracking import require_tracker


def require_shared_data(config: TrainConfig, n_processes: int) -> None:
    """Raise an InputError if so many processes cannot read the data of the configuration."""
    if config.cache is None and n_processes > 1:
        raise InputError(
            f"a stream of activations is for one process, and here are {n_processes}; write a "
            "cache first with `sparsteer cache`, which they can share"
        )


def required_sites(
    configs: Sequence[TrainConfig], data: ActivationSource, n_processes: int
) -> list[str]:
    """The site that each of the configurations of a grid reads.

    Raises InputError if the data, the number of processes or what is installed does not suffice for
    one of them, so that it is refused now and not after training.
    """
    sites = [_required_site(config, data, n_processes) for config in configs]
    data.require_held_out()
    data.require_batch(configs[0].trainer.rows_per_step)
    require_tracker(configs[0].track)
    return sites


def _required_site(config: TrainConfig, data: ActivationSource, n_processes: int) -> str:
    shards, batch_size = config.trainer.shards, config.trainer.rows_per_step
    sae_config = config.sae_config(data.d_model)
    require_shards(sae_config, shards, n_processes, config.trainer.k_start)
    n_parts = n_processes // shards
    if batch_size % n_parts:
        raise InputError(
            f"batch_size is {batch_size}, which {n_parts} processes cannot share evenly; make it a "
            f"multiple of {n_parts}",
            field="batch_size",
        )
    site = data.site_name(config.site)
    if config.target_site is not None:
        require_other_site(site, data.site_name(config.target_site))
    return site


def resolved_settings(
    config: TrainConfig,
    data: ActivationSource,
    site: str,
    precision: str,
    derived: Sequence[str] = (),
    start: Start | None = None,
) -> dict[str, Any]:
    """What config.yaml holds: the settings as given, and what those come to that were left open.

    Args:
        config: with nothing left open of what `open_settings` is about.
        precision: a definite one.
        derived: the names of those that were.
        start: the autoencoder that a new run begins with.
    """
    settings = to_plain(config)
    del settings["stream"]  # part of the data's identity if there is one
    return {
        **settings,
        RESOLVED_PRECISION: precision,
        DERIVED: list(derived),
        **({} if start is None else start.recorded),
        "sae": plain(config_to_dict(config.sae_config(data.d_model))),
        "site": site,
        **data.identity,
    }
