"""The sparse autoencoder: encode, decode, save and load."""

from collections.abc import Mapping
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
from .activations.registry import ACTIVATIONS
from .common.checksums import read_checked_json, record_of, recorded_files, write_checked_json
from .common.errors import InputError
from .common.files import atomic_folder, read_json
from .common.tensor_files import load_tensors, save_tensors
from .config import Origin, SAEConfig, build_dataclass, config_from_dict, config_to_dict
from .interop.hub import fetch_from_hub, is_hub_source
from .interop.layouts import LAYOUTS, layout_of

if TYPE_CHECKING:
    from .activations.base import Activation

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "sae.safetensors"
_FORMAT = "sparsteer-sae"
FORMAT_VERSION = 2
_VERSIONS = (1, FORMAT_VERSION)
"""That are read; the first has no checksums."""
_REMEDY = "copy the whole folder again"


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
    the encoder takes a fixed center off first, which the decoder adds last.
    A transcoder (arXiv 2406.11944) has the same parts, but x_hat predicts another activation than
    x, with a center and a scale of its own, and pre = x @ W_enc^T + b_enc.

    Attributes:
        W_enc: [F, D], a latent a row.  W_dec: [F, D], unit rows.  b_enc: [F].  b_dec: [D].
        input_scale: scalar buffer; raw activations less their center, times it, have mean squared
            norm D. It is 1 until training estimates it. A single scalar keeps the differences
            between rows' norms.
        input_center: [D] buffer: the center of raw activations times input_scale. It is 0 until
            training estimates it, and then fixed.
        output_scale, output_center: buffers, only of a transcoder: the same of what it predicts.
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
        if config.transcoder:
            self.register_buffer("output_scale", torch.ones(()))
            self.register_buffer("output_center", torch.zeros(config.d_model))
        self.activation = ACTIVATIONS.get(config.activation)(config)
        for name, tensor in self.activation.state().items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)

    @property
    def center(self) -> Float[Tensor, "D"]:
        """What the encoder subtracts from rows in scaled units; of a transcoder 0, as b_enc could
        undo whatever training made of it."""
        return torch.zeros_like(self.b_dec) if self.config.transcoder else self.b_dec

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
        """Raw activations that are read, in scaled units and the dtype of the weights."""
        return _scaled(x, self.input_center / self.input_scale, self.input_scale)

    def scaled_target(self, target: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """As `scaled`, of raw activations that are reconstructed or predicted."""
        return _scaled(target, self.decoder_center, self.decoder_scale)

    def extra_repr(self) -> str:
        """Activation and sizes, for `print`."""
        given = asdict(self.config)
        if not self.config.transcoder:
            del given["transcoder"]
        if not self.config.prefixes:
            del given["prefixes"]
        fields = (f"{name}={value}" for name, value in given.items())
        return ", ".join((self.config.activation, *fields))

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
        codes, leading = self.encode_scaled(self.scaled(x.reshape(-1, x.shape[-1]))), x.shape[:-1]
        return Codes(
            codes.indices.view(*leading, codes.indices.shape[-1]),
            codes.values.view(*leading, codes.values.shape[-1]),
            None if codes.counts is None else codes.counts.view(leading),
        )

    def decode(self, codes: Codes) -> Float[Tensor, "*B D"]:
        """Raw activations [..., D] from codes in scaled units."""
        return self.decode_scaled(codes) / self.decoder_scale + self.decoder_center

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The reconstruction of raw activations, or a transcoder's prediction from them."""
        return self.decode(self.encode(x))

    def encode_scaled(self, x_BD: Float[Tensor, "B D"]) -> Codes:
        """As `encode`, for rows that were scaled already."""
        return self.activation.encode(self, x_BD)

    def encode_train(
        self, x_BD: Float[Tensor, "B D"], k: int | None = None, group: ProcessGroup | None = None
    ) -> Codes:
        """As `encode_scaled`, but in training: see `Activation.encode_train`."""
        return self.activation.encode_train(self, x_BD, k, group)

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
            "format": _FORMAT,
            "version": FORMAT_VERSION,
            **config_to_dict(self.config),
            "origin": None if self.origin is None else _origin_to_dict(self.origin),
        }

    @classmethod
    def load(cls, path: str | Path) -> "SparseAutoencoder":
        """Read an autoencoder from its folder, or from the run folder that holds it as `sae/`.

        A folder in another layout that can be read (`sparsteer.sae.interop.layouts`) is read so.
        `hub:OWNER/NAME[/SUBFOLDER][@REVISION]` is downloaded from the Hugging Face hub first, or
        taken from its client's cache.

        Raises:
            InputError: a file is missing, broken, has changed since it was written, or does not fit
                the other; the message names it.
        """
        path = fetch_from_hub(str(path)).path if is_hub_source(path) else Path(path)
        if not is_own_folder(path) and (layout := layout_of(path)):
            return layout.read(path)
        folder = sae_folder(path)
        config, origin, record = _read_description(folder / CONFIG_FILE)
        weights = folder / WEIGHTS_FILE
        tensors = load_tensors(weights, _REMEDY, record=record)
        # Before anything is built: a broken config.json may name a size that no memory holds.
        _require_shapes_of(config, tensors, weights)
        sae = cls(config, origin=origin)
        sae.load_state_dict(sae.state_dict() | tensors)
        return sae


def centers_that_may_lack(config: SAEConfig) -> tuple[str, ...]:
    """Names of the centers that a file or a checkpoint may lack, being 0 then."""
    return ("output_center",) if config.transcoder else ("input_center",)


def _scaled(
    x: Float[Tensor, "*B D"], center_D: Float[Tensor, "D"], scale: Float[Tensor, ""]
) -> Float[Tensor, "*B D"]:
    # The center goes first: what is left of rows far from 0 is exact, if they are near to it.
    return (x - center_D).to(scale.dtype) * scale


def is_own_folder(path: Path) -> bool:
    """Whether `sae_folder` finds a folder here whose configuration is of this package."""
    try:
        folder = sae_folder(path)
        return read_json(folder / CONFIG_FILE, "configuration").get("format") == _FORMAT
    except InputError:
        return False


def sae_folder(path: Path) -> Path:
    """The folder of an autoencoder, given by itself or by the run that holds it as `sae/`.

    Raises InputError if there is none.
    """
    for folder in (path, path / "sae"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder of a trained autoencoder")
    raise InputError(f"{path} holds no {CONFIG_FILE}; give the folder of a trained autoencoder")


def _may_replace(path: Path) -> bool:
    return path.is_dir() and all(f.name in (CONFIG_FILE, WEIGHTS_FILE) for f in path.iterdir())


def _origin_to_dict(origin: Origin) -> dict[str, Any]:
    """As plain values, without what is unknown, the target site that an autoencoder does not have,
    and the usual dtype of the model."""
    values = {name: value for name, value in asdict(origin).items() if value is not None}
    if values["model_dtype"] == Origin.model_dtype:
        del values["model_dtype"]
    return values


def _read_description(path: Path) -> tuple[SAEConfig, Origin | None, Mapping[str, Any] | None]:
    """The configuration, the origin, and what is recorded of the weights' file."""
    values = read_checked_json(path, "autoencoder's configuration", remedy=_REMEDY)
    record = record_of(values, WEIGHTS_FILE)
    if values.pop("format", None) != _FORMAT:
        raise InputError(
            f"{path} is not a sparsteer autoencoder's configuration, and no layout that can be "
            f"read ({', '.join(LAYOUTS.names())}) recognizes {path.parent}; give the folder of an "
            "autoencoder that sparsteer trained"
        )
    if (version := values.pop("version", None)) not in _VERSIONS:
        raise InputError(
            f"{path} has format version {version!r}, but this sparsteer reads {FORMAT_VERSION}; "
            "use the sparsteer that wrote it or a newer one"
        )
    if record is not None:
        values.pop("files", None)
    origin = values.pop("origin", None)
    config = config_from_dict(values, str(path))
    read = None if origin is None else build_dataclass(Origin, origin, f"{path}, origin")
    return config, read, record


def _require_shapes_of(config: SAEConfig, found: dict[str, Tensor], path: Path) -> None:
    D, F = config.d_model, config.n_latents
    expected: dict[str, list[int]] = {
        "W_dec": [F, D],
        "W_enc": [F, D],
        "b_dec": [D],
        "b_enc": [F],
        "input_scale": [],
        "input_center": [D],
    }
    if config.transcoder:
        expected |= {"output_scale": [], "output_center": [D]}
    with torch.device("meta"):  # shapes alone: the sizes of a broken config.json fit nowhere
        state = ACTIVATIONS.get(config.activation)(config).state()
    expected |= {name: list(tensor.shape) for name, tensor in state.items()}
    for name in centers_that_may_lack(config):
        if name not in found:
            del expected[name]
    for name in sorted(found.keys() | expected.keys()):
        have, want = found.get(name), expected.get(name)
        if have is None or want is None:
            state = "missing" if have is None else "not expected"
            raise InputError(f"{path}: tensor {name} is {state}; copy the whole folder again")
        if list(have.shape) != want:
            raise InputError(
                f"{path}: {name} has shape {list(have.shape)}, but {CONFIG_FILE} beside it means "
                f"{want}; the two files belong to different autoencoders"
            )
        if not have.is_floating_point():
            raise InputError(
                f"{path}: {name} holds {have.dtype} where numbers with a fraction are needed; copy "
                "the whole folder again"
            )
        if not have.isfinite().all():
            raise InputError(f"{path}: {name} holds NaN or infinity; copy the folder again")
