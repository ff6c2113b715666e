"""Which arms a study has."""

from ....sae.common.errors import InputError
from ...registries import STUDY_METHODS
from ..arm import Arm
from ..config import StudyConfig


def chosen_arms(config: StudyConfig) -> list[Arm]:
    """The arms of the chosen methods, the unsteered model first.

    Without a run the methods that need one are left out.

    Raises:
        InputError: a method that is named needs a run, and there is none.
    """
    arms: list[Arm] = []
    for name in config.chosen_methods:
        method = STUDY_METHODS.get(name)
        if method.needs_run and config.run is None:
            if name in config.methods:
                raise InputError(
                    f"methods names {name}, which steers with features of an autoencoder; give the "
                    "folder of its run, or leave it out",
                    field="methods",
                )
            continue
        arms += method.arms(config)
    return arms
