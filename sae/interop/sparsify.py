"""The layout `sparsify`: what EleutherAI's sparsify writes of one hook point, and loads."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..autoencoder import SparseAutoencoder
from ..common.checksums import write_sums
from ..common.errors import InputError
from ..common.files import read_json, write_json
from ..common.tensor_files import save_tensors
from ..config import GroupMaxConfig, Origin, SAEConfig, TopKConfig
from .folding import encoder_biases, in_raw_units, require_plain_rows, shifted_biases
from .reading import ForeignTensors, build, config_of, flag, origin_from, read_tensors

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"
_NAMES: dict[type[SAEConfig], str] = {TopKConfig: "topk", GroupMaxConfig: "groupmax"}
_RUN_FILE = "config.json"  # in the folder above, of the run


def recognizes(path: Path) -> bool:
    """Whether both files of one hook point are there."""
    return (path / CONFIG_FILE).is_file() and (path / WEIGHTS_FILE).is_file()


@torch.no_grad()
def read(path: Path) -> SparseAutoencoder:
    """The autoencoder or transcoder in a folder of sparsify: topk, or groupmax.

    It keeps the k largest latents after the ReLU, which are those before it. An autoencoder with a
    skip connection, which sparsify allows, is a transcoder from its site to the same site here.

    Raises:
        InputError: a file is missing or damaged, the two do not fit each other, or there is another
            activation.
    """
    where = path / CONFIG_FILE
    given = read_json(where, "configuration")
    kinds = {name: kind for kind, name in _NAMES.items()}
    if (activation := given.get("activation", "topk")) not in kinds:
        raise InputError(
            f"{where}: activation is {activation!r}, which is not read; those that are: "
            f"{', '.join(kinds)}"
        )
    file = path / WEIGHTS_FILE
    found = ForeignTensors(read_tensors(file), file, {"D": given.get("d_in"), "F": _width(given)})
    ours = {
        "W_enc": found.take("encoder.weight", "F", "D"),
        "b_enc": found.take("encoder.bias", "F"),
        "W_dec": found.take("W_dec", "F", "D"),
        "b_dec": found.take("b_dec", "D"),
    }
    skip, transcode = (flag(given, name, where) for name in ("skip_connection", "transcode"))
    if skip:
        ours["W_skip"] = found.take("W_skip", "D", "D")
        if not transcode:
            ours |= shifted_biases(ours, -ours["b_dec"])
    found.finish()
    config = config_of(
        kinds[activation],
        found,
        where,
        k=given.get("k"),
        transcoder=transcode or skip,
        skip=skip,
    )
    return build(config, ours, _origin_of(path, itself=skip and not transcode))


def _width(given: Mapping[str, Any]) -> object:
    """The number of latents, for which 0 means a multiple of the width."""
    latents, width = given.get("num_latents"), given.get("d_in")
    factor = given.get("expansion_factor")
    if latents not in (0, None):
        return latents
    return width * factor if isinstance(width, int) and isinstance(factor, int) else None


def _origin_of(path: Path, *, itself: bool) -> Origin | None:
    """From the run's configuration in the folder above, and the hook point that names this one."""
    run = path.parent / _RUN_FILE
    found = re.search(r"(?:^|\.)(?:layers|h)\.(\d+)(\.mlp)?$", path.name)
    if not run.is_file() or found is None:
        return None
    given = read_json(run, "configuration")
    site = f"blocks.{found[1]}.{'hook_mlp_out' if found[2] else 'hook_resid_post'}"
    return origin_from(
        given.get("model"),
        site,
        target_site=site if itself else None,
        dataset=given.get("dataset"),
        context_length=given.get("ctx_len"),
    )


@torch.no_grad()
def write(sae: SparseAutoencoder, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a topk or group_max autoencoder or transcoder in raw units (`in_raw_units`), and
    checksums.

    Raises:
        InputError: it has another activation, or normalizes rows, neither of which sparsify does.
    """
    config = sae.config
    if type(config) not in _NAMES:
        raise InputError(
            f"activation is {config.activation}, but sparsify has top-k and group-max alone; "
            "choose --format sparsteer, or saelens, which has more of them"
        )
    require_plain_rows(sae, "sparsify")
    plain = in_raw_units(sae)
    tensors = {
        "encoder.weight": plain.W_enc,
        "encoder.bias": encoder_biases(plain, subtracts_b_dec=not config.transcoder)["b_enc"],
        "W_dec": plain.W_dec,
        "b_dec": plain.b_dec,
        **({"W_skip": plain.W_skip} if config.skip else {}),
    }
    save_tensors(out / WEIGHTS_FILE, {name: tensor.to(dtype) for name, tensor in tensors.items()})
    norms_F = plain.decoder_norms()
    values = {
        "activation": _NAMES[type(config)],
        "expansion_factor": max(1, config.n_latents // config.d_model),
        "normalize_decoder": bool(torch.allclose(norms_F, torch.ones_like(norms_F), atol=1e-3)),
        "num_latents": config.n_latents,
        "k": config.latents_of_row,
        "multi_topk": False,
        "skip_connection": config.skip,
        "transcode": config.transcoder,
        "d_in": config.d_model,
    }
    write_json(out / CONFIG_FILE, values)
    write_sums(out)
