"""Load the language model again that something was made with, which says which one it was."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ..compatibility import KnownModel, require_weights
from ..config import ModelDtype
from .model import LanguageModel
from .names import named_again


@runtime_checkable
class MadeWith(KnownModel, Protocol):
    """What an autoencoder's origin and an activation cache say of how they were made."""

    @property
    def model_dtype(self) -> str:
        """The dtype in which it ran."""
        ...


def load_again(
    made: MadeWith,
    of: str,
    *,
    given: str | None,
    device: str,
    dtype: ModelDtype | None = None,
    device_map: str | None = None,
    otherwise: str = "",
    allow_other_weights: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> LanguageModel:
    """The language model that `made` names, or the one given in its place, with the same weights.

    Args:
        made: what the model is known by.
        of: what was made with it, for an error.
        given: a model that the user names; None takes the recorded one.
        device: auto, cpu, cuda or cuda:N.
        dtype: in which it runs; None takes the recorded one. Another is said.
        device_map: in place of the device, as for `LanguageModel.load`.
        otherwise: what else may be done than to give the right model, for an error.
        allow_other_weights: take a model with other weights, too, and say it.
        say: told what takes time, and what is not as it was.

    Raises:
        InputError: the model cannot be loaded, is not there any more, or has other weights.
    """
    source = named_again(made.model, given, of)
    model = LanguageModel.load(
        source,
        device=device,
        dtype=dtype or made.model_dtype,
        device_map=device_map,
        progress=say,
    )
    require_same_weights(
        model, made, of, otherwise, allow_other_weights=allow_other_weights, say=say
    )
    if model.dtype_name != made.model_dtype:
        say(f"{of} was made in {made.model_dtype}, and {model.name} runs in {model.dtype_name} now")
    return model


def require_same_weights(
    model: LanguageModel,
    made: MadeWith,
    of: str,
    otherwise: str = "",
    *,
    allow_other_weights: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Raise an InputError unless the model has the weights that `made` names; see `load_again`."""
    require_weights(
        made,
        model.weights_hash,
        model.name,
        of=of,
        remedy=f"give --model with the right one{otherwise}",
        allow_other_weights=allow_other_weights,
        say=say,
    )
