"""The sparse autoencoder: encode, decode, save and load."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..kernels.codes import Codes
from ..kernels.decode import decode
from ..kernels.numerics import row_norms
from ..kernels.optimizer import normalize_rows_
from ..kernels.process_group import ProcessGroup
from .activations.registry import activation_class
from .common.checksums import recorded_files, write_checked_json
from .common.errors import InputError
from .common.files import atomic_folder
from .common.tensor_files import save_tensors
from .config import Origin, SAEConfig, config_to_dict
from .interop.hub import HubSource
from .interop.layouts import read_source
from .interop.push import HubUpload, push_to_hub
from .row_normalization import normalize_rows

if TYPE_CHECKING:
    from .activations.base import Activation

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "sae.safetensors"
FORMAT = "sparsteer-sae"
FORMAT_VERSION = 2


class SparseAutoencoder(nn.Module):
    """A dictionary of F latents over activations of width D.

    `load` reads a trained one and `save` writes it; `encode` turns raw activations [..., D] into
    the few latents that are active on each, `decode` turns those back, and calling it does both:

    >>> sae = SparseAutoencoder(TopKConfig(d_model=8, n_latents=32, k=4))
    >>> acts = torch.randn(5, 8)
    >>> codes = sae.encode(acts)
    >>> codes.indices.shape, codes.values.shape
    (torch.Size([5, 4]), torch.Size([5, 4]))
    >>> torch.equal(sae.decode(codes), sae(acts))
    True
    >>> sae
    SparseAutoencoder(topk, d_model=8, n_latents=32, k=4)

    In scaled units: pre = (x - b_dec) @ W_enc^T + b_enc, the activation keeps some of relu(pre),
    x_hat = codes @ W_dec + b_dec. `encode` and `decode` speak raw activations and scale inside:
    the encoder takes a fixed center off first, which the decoder adds last. With a `lista_step` it
    encodes twice, see `read_again`.
    A transcoder (arXiv 2406.11944) has the same parts, but x_hat predicts another activation than
    x, with a center and a scale of its own, and pre = x @ W_enc^T + b_enc.
    What other libraries trained may differ: the configuration says whether the encoder subtracts
    b_dec, whether rows are normalized, and whether a transcoder has a skip connection.

    Attributes:
        W_enc: [F, D], a latent a row.  W_dec: [F, D], unit rows.  b_enc: [F].  b_dec: [D].
        input_scale: scalar buffer; raw activations less their center, times it, have mean squared
            norm D. It is 1 until training estimates it. A single scalar keeps the differences
            between rows' norms.
        input_center: [D] buffer: the center of raw activations times input_scale. It is 0 until
            training estimates it, and then fixed.
        output_scale, output_center: buffers, only of a transcoder: the same of what it predicts.
        W_skip: [D, D], only of a transcoder with a skip connection, for raw activations.
        activation: what keeps some of the latents; its `state` are further parameters and buffers,
            such as the `threshold` of batch_topk and the `threshold_exponent` of jumprelu.
        origin: the model and site it was trained on, None if unknown.
    """

    input_scale: Tensor
    input_center: Tensor
    output_scale: Tensor
    output_center: Tensor
    activation: "Activation[Any]"

    def __init__(self, config: SAEConfig, *, seed: int = 0, origin: Origin | None = None) -> None:
        """Random unit decoder rows from `seed`, the encoder their copy, biases zero."""
        super().__init__()
        self.config = config
        self.origin = origin
        generator = torch.Generator().manual_seed(seed)
        directions_FD = torch.randn(config.n_latents, config.d_model, generator=generator)
        self.W_dec = nn.Parameter(normalize_rows_(directions_FD))
        self.W_enc = nn.Parameter(self.W_dec.detach().clone())
        self.b_enc = nn.Parameter(torch.zeros(config.n_latents))
        self.b_dec = nn.Parameter(torch.zeros(config.d_model))
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("input_center", torch.zeros(config.d_model))
        if config.skip:
            self.W_skip = nn.Parameter(torch.zeros(config.d_model, config.d_model))
        if config.transcoder:
            self.register_buffer("output_scale", torch.ones(()))
            self.register_buffer("output_center", torch.zeros(config.d_model))
        self.activation = activation_class(config.activation)(config)
        for name, tensor in self.activation.state().items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)

    @property
    def center(self) -> Float[Tensor, "D"]:
        """What the encoder subtracts from rows in scaled units; of a transcoder 0, as b_enc could
        undo whatever training made of it."""
        subtracts = self.config.apply_b_dec_to_input and not self.config.transcoder
        return self.b_dec if subtracts else torch.zeros_like(self.b_dec)

    @property
    def decoder_scale(self) -> Float[Tensor, ""]:
        """Raw activations less `decoder_center`, times it, are in the units of the decoder."""
        return self.output_scale if self.config.transcoder else self.input_scale

    @property
    def decoder_center(self) -> Float[Tensor, "D"]:
        """The raw activation that the decoder adds last."""
        center_D = self.output_center if self.config.transcoder else self.input_center
        return center_D / self.decoder_scale

    def scaled(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Raw activations that are read, normalized where the configuration says so, in scaled
        units and the dtype of the weights."""
        if self.config.normalize_activations != "none":
            x, _, _ = self.normalized(x)
        return self._scaled_input(x)

    def _scaled_input(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return _scaled(x, self.input_center / self.input_scale, self.input_scale)

    def normalized(
        self, x: Float[Tensor, "*B D"]
    ) -> tuple[Float[Tensor, "*B D"], Float[Tensor, "*B 1"], Float[Tensor, "*B 1"]]:
        """Rows normalized as the configuration says, in the dtype of the weights or a wider one of
        theirs, and what undoes it: normalized * scale + shift.

        Raises ValueError if the configuration does not normalize.
        """
        if self.config.normalize_activations == "none":
            raise ValueError("normalize_activations is none; use the rows as they are")
        wide = x.to(torch.promote_types(x.dtype, self.W_enc.dtype))
        return normalize_rows(wide, self.config.normalize_activations)

    def scaled_target(self, target: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """As `scaled`, of raw activations that are reconstructed or predicted."""
        return _scaled(target, self.decoder_center, self.decoder_scale)

    def extra_repr(self) -> str:
        """Activation and sizes, for `print`."""
        shown = config_to_dict(self.config)
        activation = shown.pop("activation")
        if self.config.prefixes:
            shown["prefixes"] = self.config.prefixes
        return ", ".join((activation, *(f"{name}={value}" for name, value in shown.items())))

    def require_target(self, target: Tensor | None) -> None:
        """Raise ValueError if a transcoder has no target, or an autoencoder has one."""
        if (target is not None) != self.config.transcoder:
            needs = "a target" if target is None else "no target, which only a transcoder has"
            raise ValueError(f"the {self.config.kind} needs {needs}")

    def require_width(
        self,
        width: int,
        where: str,
        *,
        of: str = "the autoencoder",
        remedy: str = "give activations of that width",
    ) -> None:
        """Raise an InputError unless activations of this width are what it reads.

        Args:
            width: of the activations.
            where: what has the width.
            of: what to call the autoencoder.
            remedy: the end of the sentence.
        """
        if width != self.config.d_model:
            raise InputError(
                f"{of} reads activations of width {self.config.d_model}, but {where} has width "
                f"{width}; {remedy}"
            )

    def encode(self, x: Float[Tensor, "*B D"]) -> Codes:
        """The active latents of raw activations.

        Args:
            x: [..., D] raw activations, any floating dtype.

        Returns:
            Codes [..., M], values in scaled units; differentiable.

        Raises:
            InputError: x has another width than the autoencoder.
        """
        self.require_width(x.shape[-1], "x")
        leading, scale, shift = x.shape[:-1], None, None
        if self.config.normalize_activations != "none":
            x, scale, shift = self.normalized(x)
        if not self._undoes_normalization:
            scale = shift = None
        codes = self.encode_scaled(self._scaled_input(x.reshape(-1, x.shape[-1])))
        return Codes(
            codes.indices.view(*leading, codes.indices.shape[-1]),
            codes.values.view(*leading, codes.values.shape[-1]),
            None if codes.counts is None else codes.counts.view(leading),
            row_scale=scale,
            row_shift=shift,
        )

    def decode(self, codes: Codes) -> Float[Tensor, "*B D"]:
        """Raw activations [..., D] from codes in scaled units; see `reconstruct` for a transcoder
        with a skip connection.

        Raises ValueError if the rows were normalized and the codes do not say how to undo it, as
        those of `encode` do.
        """
        decoded = self.decode_scaled(codes) / self.decoder_scale + self.decoder_center
        if not self._undoes_normalization:
            return decoded
        if codes.row_scale is None or codes.row_shift is None:
            raise ValueError("the codes have no row_scale and row_shift; take them from encode")
        return decoded * codes.row_scale + codes.row_shift

    def reconstruct(self, x: Float[Tensor, "*B D"], codes: Codes) -> Float[Tensor, "*B D"]:
        """What calling the autoencoder gives, from x and its codes: `decode`, and of a transcoder
        with a skip connection x @ W_skip^T more."""
        decoded = self.decode(codes)
        return decoded + x.to(decoded) @ self.W_skip.T if self.config.skip else decoded

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The reconstruction of raw activations, or a transcoder's prediction from them."""
        return self.reconstruct(x, self.encode(x))

    @property
    def _undoes_normalization(self) -> bool:
        """A transcoder predicts another activation, for which the row's own norm means nothing."""
        return self.config.normalize_activations != "none" and not self.config.transcoder

    def encode_scaled(self, x_BD: Float[Tensor, "B D"]) -> Codes:
        """As `encode`, for rows that were scaled already."""
        if self.config.lista_step:
            x_BD = self.read_again(x_BD, self.activation.encode(self, x_BD))
        return self.activation.encode(self, x_BD)

    def read_again(self, x_BD: Float[Tensor, "B D"], codes: Codes) -> Float[Tensor, "B D"]:
        """What a LISTA step encodes in place of rows in scaled units: x + eta (x - x_hat), x_hat
        being what their first codes decode to.

        As pre-activations are affine in the row, each of them grows by eta (x - x_hat) . W_enc[f].
        """
        missed_BD = x_BD - self.decode_scaled(codes)
        return x_BD + self.config.lista_step * missed_BD

    def encode_train(
        self, x_BD: Float[Tensor, "B D"], k: int | None = None, group: ProcessGroup | None = None
    ) -> Codes:
        """As `encode_scaled`, but in training: see `Activation.encode_train`."""
        if self.config.lista_step:
            with self.activation.taking_nothing_for_granted():
                first = self.activation.encode_train(self, x_BD, k, group)
            x_BD = self.read_again(x_BD, first)
        return self.activation.encode_train(self, x_BD, k, group)

    @property
    def values_are_pre_activations(self) -> bool:
        """Whether every value of a code is its latent's pre-activation for the row as it was given;
        see the attribute of `Activation`. A LISTA step takes that of another row."""
        return self.activation.values_are_pre_activations and not self.config.lista_step

    def thresholds(self) -> Float[Tensor, "F"]:
        """Above which activation each latent of batch_topk or jumprelu is active, in scaled units.

        Raises:
            ValueError: the activation has no thresholds.
        """
        return self.activation.thresholds(self)

    def decode_scaled(self, codes: Codes) -> Float[Tensor, "*B D"]:
        """As `decode`, in scaled units."""
        return decode(codes, self.W_dec, self.b_dec)

    @torch.no_grad()
    def decoder_norms(self) -> Float[Tensor, "F"]:
        """Norms of the decoder rows: 1 up to rounding after training here."""
        return row_norms(self.W_dec)

    def save(self, path: str | Path) -> None:
        """Write `config.json` and `sae.safetensors` into the folder, which appears whole.

        Raises:
            InputError: the path holds something other than an autoencoder.
        """
        path = Path(path)
        if path.exists() and not _may_replace(path):
            raise InputError(
                f"{path} holds something else than an autoencoder; choose another path"
            )
        with atomic_folder(path) as folder:
            save_tensors(folder / WEIGHTS_FILE, self.tensors())
            files = recorded_files(folder, [WEIGHTS_FILE])
            write_checked_json(folder / CONFIG_FILE, {**self.description(), "files": files})

    def tensors(self) -> dict[str, Tensor]:
        """What `sae.safetensors` holds: the state, without a center of 0 that may be left out, as
        files have none that were written before there was one."""
        state = self.state_dict()
        for name in centers_that_may_lack(self.config):
            if not state[name].any():
                del state[name]
        return state

    def description(self) -> dict[str, Any]:
        """What `config.json` says of it: format, configuration and origin."""
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            **config_to_dict(self.activation.described_config(self)),
            "origin": None if self.origin is None else _origin_to_dict(self.origin),
        }

    @classmethod
    def load(cls, source: str | Path, *, layout: str | None = None) -> "SparseAutoencoder":
        """Read an autoencoder, of this package or of another library.

        Codes and decoder rows of another library's keep its units: `encode` takes raw activations
        and gives what that library's `encode` gives.

        Args:
            source: its folder or file, the run folder that holds it as `sae/`, the name of one that
                comes with this package (`smollm2-135m-default`),
                `hub:OWNER/NAME[/SUBFOLDER][@REVISION]`, or a name of the catalog
                (`sparsteer import --list`).
            layout: the file layout, see `sparsteer.sae.interop.layouts`; by default recognized.

        Raises:
            InputError: a file is missing, broken, has changed since it was written, or does not fit
                the other; the message names it.
        """
        return read_source(source, layout)

    @classmethod
    def from_pretrained(
        cls, repo_id: str, *, subfolder: str | None = None, revision: str | None = None
    ) -> "SparseAutoencoder":
        """Read an autoencoder from the Hugging Face hub, in any layout that can be read.

        Args:
            repo_id: OWNER/NAME.
            subfolder: a folder or a file of the repository; by default its top.
            revision: a branch, a tag or a commit; by default the branch `main`.

        Raises:
            InputError: as `load` does.
        """
        source = HubSource(repository=repo_id, subfolder=subfolder, revision=revision)
        return cls.load(str(source))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str | None = None,
        commit_message: str | None = None,
        dry_run: bool = False,
    ) -> HubUpload:
        """Write the autoencoder into a repository of the Hugging Face hub, in one commit.

        It lies there in this package's layout, and in `saelens/` in that of SAELens where that can
        hold it; `from_pretrained` reads it. A model card is what `sparsteer publish` writes.

        Args:
            repo_id: OWNER/NAME; it is made if it is not there.
            private: whether a repository that is made now is private.
            revision: the branch, made if it is not there; by default `main`.
            commit_message: by default a sentence that says what it is.
            dry_run: only say what would be pushed; nothing is asked over the network.

        Raises:
            InputError: nobody is logged in, the user may not write there, or the hub cannot be
                reached.
        """
        return push_to_hub(
            self,
            repo_id,
            private=private,
            revision=revision,
            commit_message=commit_message,
            dry_run=dry_run,
        )


def centers_that_may_lack(config: SAEConfig) -> tuple[str, ...]:
    """Names of the centers that a file or a checkpoint may lack, being 0 then."""
    return ("output_center",) if config.transcoder else ("input_center",)


def _scaled(
    x: Float[Tensor, "*B D"], center_D: Float[Tensor, "D"], scale: Float[Tensor, ""]
) -> Float[Tensor, "*B D"]:
    # The center goes first: what is left of rows far from 0 is exact, if they are near to it.
    return (x - center_D).to(scale.dtype) * scale


def _may_replace(path: Path) -> bool:
    return path.is_dir() and all(f.name in (CONFIG_FILE, WEIGHTS_FILE) for f in path.iterdir())


def _origin_to_dict(origin: Origin) -> dict[str, Any]:
    """As plain values, without what is unknown, the target site that an autoencoder does not have,
    and the usual dtype of the model."""
    values = {name: value for name, value in asdict(origin).items() if value is not None}
    if values["model_dtype"] == Origin.model_dtype:
        del values["model_dtype"]
    return values
