"""What an activation is: one class, which an autoencoder and its trainer ask for all that is not
the same for every activation."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ...kernels.capacity import SlotCapacity
from ...kernels.codes import Codes
from ...kernels.process_group import ProcessGroup
from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..config import SAEConfig
from ..losses import WeightedTerm
from .registry import ACTIVATIONS

C = TypeVar("C", bound=SAEConfig)


@runtime_checkable
class Ranks(Protocol):
    """The processes that have the rows of a batch; all call the same at once, and get the same."""

    def all_reduce_min(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The smallest of the processes' values."""
        ...

    def all_reduce_mean(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The mean of the processes' values: of means over equally many rows that over all rows."""
        ...


class Activation(ABC, Generic[C]):
    """Which latents of a row are kept, in training and after it, and all that follows from it.

    A subclass names its configuration and defines `encode`; every other method has a default that
    suits an activation without state and without losses of its own. Tensors belong to the
    autoencoder that is given, so that they are saved, moved and trained with it.

    What only some activations have, such as k, is declared by the configuration: its fields are
    settings of the activation, its `training_settings` those of the trainer that it takes,
    `can_be_sharded` whether the dictionary can be cut over several processes, `can_be_captured`
    whether a step can be a CUDA graph, and `can_be_whitened` whether rows can be whitened.

    Attributes:
        config_class: the configuration, whose `activation` is the name.
        keeps_pre_activations: whether `encode_train` gives max(0, pre) of the latents it keeps, and
            the choice of latents carries no gradient. Then the gradients of all weights are taken
            in one pass (`kernels/autoencode.py`); otherwise autograd goes through `encode_train`.
        values_are_pre_activations: whether every value of a code is its latent's pre-activation.
            Then the gates of steering look at the picked latents' pre-activations first, and encode
            only rows where one of them is large enough.
        n_code_parts: of a row, where the data say how wide the codes of `encode_train` are; see
            `capacity`. 0 where they do not.
        config: of the autoencoder.
        capacity: what `encode_train` may take for granted of that width on a GPU, a width for each
            part; None: nothing.
    """

    config_class: ClassVar[type[SAEConfig]]
    keeps_pre_activations: ClassVar[bool] = False
    values_are_pre_activations: ClassVar[bool] = False
    n_code_parts: ClassVar[int] = 0

    def __init__(self, config: C) -> None:
        self.config = config
        self.capacity: SlotCapacity | None = None

    @contextmanager
    def taking_for_granted(self, capacity: SlotCapacity | None) -> Generator[None]:
        """Within, `encode_train` has this capacity."""
        self.capacity = capacity
        try:
            yield
        finally:
            self.capacity = None

    @contextmanager
    def taking_nothing_for_granted(self) -> Generator[None]:
        """Within, `encode_train` has no capacity; afterwards it has that of before."""
        capacity, self.capacity = self.capacity, None
        try:
            yield
        finally:
            self.capacity = capacity

    def state(self) -> dict[str, Tensor]:
        """The tensors beside the autoencoder's weights, as they are at first, by their names.

        An `nn.Parameter`, of one dimension or more, is trained by Adam, in float32 even where the
        weights are rounded; any other tensor is a buffer. Both are saved.
        """
        return {}

    def described_config(self, sae: SparseAutoencoder) -> C:
        """The configuration as files and summaries say it: of what training learned in place of a
        setting, what it came to."""
        return self.config

    @abstractmethod
    def encode(self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]) -> Codes:
        """The latents kept of rows in scaled units, once training is over.

        A row's codes must depend on no other row. The values are differentiable.
        """

    def encode_train(
        self,
        sae: SparseAutoencoder,
        x_BD: Float[Tensor, "B D"],
        k: int | None = None,
        group: ProcessGroup | None = None,
    ) -> Codes:
        """As `encode`, but in training, where the choice may depend on the batch.

        Args:
            k: latents of a row in this step, in place of the configuration's; only given to an
                activation that takes `k_start`.
            group: the ranks that have the other rows of the batch.
        """
        return self.encode(sae, x_BD)

    def initialize(
        self, sae: SparseAutoencoder, x_ND: Float[Tensor, "N D"], settings: Mapping[str, Any]
    ) -> None:
        """Set the state from a sample of raw activations, after scales and centers, in place.

        Args:
            settings: the trainer's, of those that the configuration declares.
        """

    def after_step(
        self,
        sae: SparseAutoencoder,
        codes: Codes,
        settings: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:
        """Change buffers after an update, in place, as all processes do alike.

        Args:
            codes: of the batch before the update, or of this process's part of it.
            settings: the trainer's, of those that the configuration declares.
            ranks: the processes that have the batch.
        """

    def loss_terms(self, settings: Mapping[str, Any]) -> Sequence[WeightedTerm]:
        """The activation's own terms of the loss, with the weights that the settings give them.

        Args:
            settings: the trainer's, of those that the configuration declares.
        """
        return ()

    def thresholds(self, sae: SparseAutoencoder) -> Float[Tensor, "F"]:
        """Above which activation each latent is active after training, in scaled units.

        Raises ValueError if that does not depend on the latent alone, as by default.
        """
        raise ValueError(f"{self.config.activation} has no thresholds")

    def exported(self, sae: SparseAutoencoder) -> SparseAutoencoder:
        """The autoencoder to export in this package's own format; it encodes as this one does."""
        return sae

    def saelens(self, sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What SAELens 6 needs to encode alike: keys of its `cfg.json`, `architecture` among them,
        and further tensors of its weights, in raw units: thresholds divided by `decoder_scale`.

        Raises InputError if SAELens has no such activation, as by default.
        """
        raise InputError(
            f"activation is {self.config.activation}, for which SAELens has no equal; choose "
            "--format sparsteer"
        )


def register_activation(activation: type[Activation[Any]]) -> None:
    """Make an activation known in this process under the name that its configuration has.

    A package that is installed does it with an entry point of the group `sparsteer.activations`,
    after which the command knows it, too.
    """
    ACTIVATIONS.register(activation.config_class.activation, activation)
