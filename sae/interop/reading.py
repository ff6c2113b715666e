"""Read the files of other libraries: configurations, and tensors under the names they have there.

Every fault is one sentence in the words of the file that has it.
"""

import dataclasses
import re
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open  # pyright: ignore[reportUnknownVariableType] - its types are partly open
from torch import Tensor

from ...kernels.numerics import row_norms
from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..common.paths import require_regular_file
from ..common.tensor_files import load_tensors
from ..common.text import first_line
from ..common.validation import require_positive_integer
from ..config import Origin, SAEConfig

COPY_AGAIN = "get the file again"


class ForeignTensors:
    """The tensors of a file, taken one after another, each checked when it is taken.

    Sizes are known by letters, F for the latents and D for the width read: a letter's first tensor
    sets its size, unless the configuration beside the file gave it.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], where: str | Path, sizes: Mapping[str, object] = {}
    ) -> None:
        """Take the tensors by their names, the file for messages, and sizes that are known.

        Raises:
            InputError: a size is no positive whole number.
        """
        self._tensors = dict(tensors)
        self._where = where
        self._sizes: dict[str, int] = {}
        self._from_config = {name for name, size in sizes.items() if size is not None}
        for name in sorted(self._from_config):
            size = sizes[name]
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise InputError(
                    f"{where}: the configuration gives a size of {size!r} where a whole number of "
                    f"at least 1 is needed; {COPY_AGAIN}"
                )
            self._sizes[name] = size

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    @property
    def names(self) -> list[str]:
        """The names that were not taken yet."""
        return sorted(self._tensors)

    def size(self, letter: str) -> int:
        """The size that a letter stands for."""
        return self._sizes[letter]

    def take(self, name: str, *letters: str) -> Tensor:
        """The tensor of a name, with a dimension for each letter, in float32.

        Raises:
            InputError: it is missing, has another shape, no floating dtype, NaN or infinity.
        """
        tensor = self._tensors.pop(name, None)
        if tensor is None:
            there = ", ".join(self.names) or "no further tensor"
            raise InputError(f"{self._where}: tensor {name} is missing (there is {there})")
        if tensor.ndim != len(letters):
            raise self._wrong_shape(name, tensor, letters)
        for letter, size in zip(letters, tensor.shape, strict=True):
            if self._sizes.setdefault(letter, size) != size:
                raise self._wrong_shape(name, tensor, letters)
        if not tensor.is_floating_point():
            raise InputError(
                f"{self._where}: {name} holds {tensor.dtype} where numbers with a fraction are "
                f"needed; {COPY_AGAIN}"
            )
        if not tensor.isfinite().all():
            raise InputError(f"{self._where}: {name} holds NaN or infinity; {COPY_AGAIN}")
        return tensor.float()

    def drop(self, *names: str) -> None:
        """Leave out tensors that say nothing of how it encodes, if they are there."""
        for name in names:
            self._tensors.pop(name, None)

    def finish(self) -> None:
        """Raise an InputError if a tensor was not taken: then the file means something else."""
        if self._tensors:
            raise InputError(
                f"{self._where}: there is no place for {', '.join(self.names)} in an autoencoder "
                "of this kind; check that its configuration belongs to it"
            )

    def _wrong_shape(self, name: str, tensor: Tensor, letters: Iterable[str]) -> InputError:
        wanted = [str(self._sizes.get(letter, letter)) for letter in letters]
        return InputError(
            f"{self._where}: {name} has shape {list(tensor.shape)}, but [{', '.join(wanted)}] is "
            "needed; its file and the configuration belong to different autoencoders"
        )


def build(
    config: SAEConfig, tensors: Mapping[str, Tensor], origin: Origin | None
) -> SparseAutoencoder:
    """An autoencoder with these tensors, by their names in `SparseAutoencoder`; what is not given
    is as in a new one, so that inputs are not scaled: codes are in the units of the file.

    Args:
        config: its configuration.
        tensors: `W_enc` [F, D], `W_dec` [F, D], `b_enc` [F] and others, of the right shapes.
        origin: what is known of the model and site; only a transcoder keeps a target site.
    """
    if origin is not None and not config.transcoder:
        origin = dataclasses.replace(origin, target_site=None)
    sae = SparseAutoencoder(config, origin=origin)
    sae.load_state_dict(sae.state_dict() | dict(tensors))
    return sae


def config_of(
    kind: type[SAEConfig], found: ForeignTensors, where: str | Path, **options: Any
) -> SAEConfig:
    """A configuration with the sizes that the tensors have, and further options.

    Raises:
        InputError: an option is out of range; the message begins with `where`.
    """
    try:
        if "k" in options:  # a file may hold anything
            require_positive_integer("k", options["k"])
        return kind(d_model=found.size("D"), n_latents=found.size("F"), **options)
    except InputError as error:
        raise InputError(f"{where}: {error}", field=error.field) from None


def fold_decoder_norms(tensors: dict[str, Tensor]) -> None:
    """Let the encoder rows have the decoder rows' norms, which then are 1, in place; for W_enc
    [F, D], b_enc [F] and W_dec [F, D]."""
    norms_F = row_norms(tensors["W_dec"].double()).clamp(min=1e-8)
    tensors["W_dec"] = (tensors["W_dec"] / norms_F[:, None]).float()
    tensors["W_enc"] = (tensors["W_enc"] * norms_F[:, None]).float()
    tensors["b_enc"] = (tensors["b_enc"] * norms_F).float()


def as_object(value: object) -> dict[str, Any]:
    """A value of a JSON file as an object with keys; empty if it is none."""
    return dict(cast(Mapping[str, Any], value)) if isinstance(value, Mapping) else {}


def flag(given: Mapping[str, Any], name: str, where: str | Path, *, default: bool = False) -> bool:
    """A key of a configuration that is true or false; the default where it is missing or null.

    Raises:
        InputError: it is anything else.
    """
    value = given.get(name)
    if value is None or isinstance(value, bool):
        return default if value is None else value
    raise InputError(f"{where}: {name} is {value!r}, where true or false is needed")


def thresholds(tensor: Tensor) -> Tensor:
    """Thresholds as jumprelu takes them: below 0 they let through what ReLU does, as 0 does."""
    return tensor.clamp(min=0)


def origin_from(
    model: object,
    site: object,
    *,
    target_site: object = None,
    dataset: object = None,
    context_length: object = None,
    prepends_bos: object = None,
) -> Origin | None:
    """Where an autoencoder came from as far as a configuration says; None if it names no model and
    site, or names them in no usable way."""
    if not (isinstance(model, str) and isinstance(site, str) and model and site):
        return None
    length = context_length if isinstance(context_length, int) and context_length > 0 else None
    return Origin(
        model=model,
        site=site,
        target_site=target_site if isinstance(target_site, str) else None,
        dataset=dataset if isinstance(dataset, str) else None,
        context_length=length,
        prepends_bos=prepends_bos if isinstance(prepends_bos, bool) else None,
    )


def fits(path: Path, names: Collection[frozenset[str]], called: str) -> bool:
    """Whether a file holds just the tensors of one of these sets of names; one that is damaged is
    judged by its own name, so that reading it can say what is wrong.

    Args:
        path: a safetensors, npz or torch file.
        names: the sets.
        called: a regular expression for the whole name of such a file.
    """
    if not path.is_file():
        return False
    try:
        return _stored_names(path) in names
    except Exception:  # whatever a damaged file makes of its reader
        return re.fullmatch(called, path.name) is not None


def _stored_names(path: Path) -> frozenset[str]:
    """The names of a file's tensors, of which no more is read than that needs."""
    if path.suffix == ".safetensors":
        opened: Any = safe_open(path, framework="pt")
        with opened as tensors:
            return frozenset(tensors.keys())
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as arrays:
            return frozenset(name.removesuffix(".npy") for name in arrays.namelist())
    # Before torch 1.6 its files were no archives, of which parts could be read.
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    return frozenset(map(str, as_object(loaded)))


def only_file(path: Path, pattern: str) -> Path:
    """The file that is meant by a file or by the folder that holds it.

    Args:
        path: the file or folder.
        pattern: of files in the folder that could be meant, `*` for any part of a name.

    Raises:
        InputError: the folder has none or several.
    """
    if not path.is_dir():
        return path
    files = sorted(path.glob(pattern), key=lambda file: (len(file.name), file.name))
    if len(files) == 1:
        return files[0]
    if not files:
        raise InputError(f"{path} holds no {pattern}; {COPY_AGAIN}")
    raise InputError(
        f"{path} holds {len(files)} autoencoders, {files[0].name} to {files[-1].name}; name one of "
        f"them, such as {files[0]}"
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors, npz or torch file, by its ending, on the CPU.

    A torch file is a pickle, and is read with `weights_only=True`, which runs no code.

    Raises:
        InputError: it is missing, cut short, holds anything but tensors, or something that only
            unpickling could read.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path, COPY_AGAIN)
    require_regular_file(path, "file")
    if path.suffix == ".npz":
        return _read_npz(path)
    return _flat_tensors(read_pickled(path), path)


def read_pickled(path: Path) -> Any:
    """What a torch file holds, read with `weights_only=True`: tensors and plain values.

    Raises:
        InputError: it is damaged, or holds what would need unpickling.
    """
    require_regular_file(path, "file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        reason = first_line(error).removeprefix("Weights only load failed. ")
        raise InputError(
            f"{path} holds more than tensors and plain values, which only unpickling could read "
            f"and so could run code ({reason}); save its state_dict() with safetensors instead"
        ) from None
    except Exception as error:  # whatever a damaged file makes of the unpickler
        raise InputError(
            f"{path} cannot be read as a torch file ({first_line(error)}); {COPY_AGAIN}"
        ) from None


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.as_tensor(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        reason = first_line(error)
        if "pickle" in reason:  # numpy takes whatever is no zip file for a pickle
            reason = "it is cut short, or holds more than numbers"
        raise InputError(f"{path} cannot be read as an npz file ({reason}); {COPY_AGAIN}") from None


def _flat_tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    tensors = as_object(loaded)
    if not tensors:
        raise InputError(
            f"{path} holds a {type(loaded).__name__}, not tensors by name; {COPY_AGAIN}"
        )
    return {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
