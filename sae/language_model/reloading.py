"""Load the language model again that something was made with, which says which one it was."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from ..common.errors import InputError
from ..config import ModelDtype
from .model import LanguageModel
from .names import named_again


@runtime_checkable
class MadeWith(Protocol):
    """What an autoencoder's origin and an activation cache say of their language model."""

    @property
    def model(self) -> str:
        """Its name, but for a local one its absolute path."""
        ...

    @property
    def weights_hash(self) -> str:
        """SHA-256 of its weights."""
        ...

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
    otherwise: str = "",
    say: Callable[[str], None] = lambda sentence: None,
) -> LanguageModel:
    """The language model that `made` names, or the one given in its place, with the same weights.

    Args:
        made: what the model is known by.
        of: what was made with it, for an error.
        given: a model that the user names; None takes the recorded one.
        device: auto, cpu, cuda or cuda:N.
        dtype: in which it runs; None takes the recorded one. Another is said.
        otherwise: what else may be done than to give the right model, for an error.
        say: told what takes time.

    Raises:
        InputError: the model cannot be loaded, is not there any more, or has other weights.
    """
    source = named_again(made.model, given, of)
    model = LanguageModel.load(source, device=device, dtype=dtype or made.model_dtype, progress=say)
    require_same_weights(model, made, of, otherwise)
    if model.dtype_name != made.model_dtype:
        say(f"{of} was made in {made.model_dtype}, and {model.name} runs in {model.dtype_name} now")
    return model


def require_same_weights(
    model: LanguageModel, made: MadeWith, of: str, otherwise: str = ""
) -> None:
    """Raise an InputError unless the model has the weights that `made` names."""
    if model.weights_hash != made.weights_hash:
        raise InputError(
            f"{model.name} has other weights than {made.model}, with which {of} was made; give "
            f"--model with the right one{otherwise}"
        )
