"""Autoencoders and transcoders of SAELens 6, saved and loaded by it; runs in its environment."""

import importlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from exchange import Case, Coder, Sizes, Weights, run
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType] - its path type is an open generic

_saes: Any = importlib.import_module("sae_lens.saes")
_saes_base: Any = importlib.import_module("sae_lens.saes.sae")
_scaler: Any = importlib.import_module("sae_lens.training.activation_scaler")
_STANDARD = ("W_enc", "b_enc", "W_dec", "b_dec")
_GATED = ("W_enc", "b_gate", "b_mag", "r_mag", "W_dec", "b_dec")
_JUMP = (*_STANDARD, "threshold")
_SKIP = (*_STANDARD, "W_skip")


def _coder(sae: Any) -> Coder:
    return Coder(sae.encode, sae)


def _loaded(path: Path, dtype: str | None = None) -> Coder:
    return _coder(_saes.SAE.load_from_disk(path, dtype=dtype))


def _build(kind: str, names: tuple[str, ...], sizes: Sizes, bias: float, settings: Any) -> Any:
    """An instance of the class `kind` with random weights."""
    if "Transcoder" in kind:
        settings = {"d_out": sizes.width, "apply_b_dec_to_input": False, **settings}
    config = getattr(_saes, f"{kind}Config")(d_in=sizes.width, d_sae=sizes.latents, **settings)
    sae = getattr(_saes, kind)(config)
    named = {name: value for name, value in settings.items() if name != "metadata"}
    weights = Weights(sizes, f"{kind} {named}", bias).take(*names)
    missing = sae.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"topk_threshold"}
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(0.83)
    return sae


def _inference(
    kind: str, names: tuple[str, ...], *, bias: float = 0.0, k: bool = False, **settings: Any
) -> Callable[[Sizes, Path], Coder]:
    """Saved by `save_model` of a class for inference."""

    def write(sizes: Sizes, path: Path) -> Coder:
        own = {"k": sizes.k} if k else {}
        sae = _build(kind, names, sizes, bias, own | settings)
        sae.save_model(path)
        return _coder(sae)

    return write


def _trained(
    kind: str,
    names: tuple[str, ...],
    *,
    k: bool = False,
    scale: float | None = None,
    checkpoint: bool = False,
    **settings: Any,
) -> Callable[[Sizes, Path], Coder]:
    """Saved by `save_inference_model` of a class for training, or as a checkpoint by `save_model`.

    `scale` is folded as training does at its end; a checkpoint has it in a file beside. A
    batch-top-k in training depends on the batch, so the codes are always those of the model for
    inference.
    """

    def write(sizes: Sizes, path: Path) -> Coder:
        own: dict[str, Any] = {"k": sizes.k} if k else {}
        if kind.startswith("Matryoshka"):
            own["matryoshka_widths"] = [sizes.latents // 4, sizes.latents]
        sae = _build(kind, names, sizes, 0.0, own | settings)
        if checkpoint:
            sae.save_model(path)
            _scaler.ActivationScaler(scale).save(str(path / "activation_scaler.json"))
        if scale is not None:
            sae.fold_activation_norm_scaling_factor(scale)
        if not checkpoint:
            sae.save_inference_model(path)
            return _loaded(path)
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            return _loaded(Path(folder))

    return write


def _whitened(sizes: Sizes, path: Path) -> Coder:
    weights = Weights(sizes, "whitening")
    sae = _build("StandardSAE", _STANDARD, sizes, 0.0, {"apply_b_dec_to_input": False})
    matrix_DD = torch.eye(sizes.width) + 0.3 * weights["W_skip"]
    sae.fold_activation_whitening(weights["b_dec"], matrix_DD, matrix_DD.inverse())
    sae.save_model(path)
    return _coder(sae)


def _folded(sizes: Sizes, path: Path) -> Coder:
    sae = _build("JumpReLUSAE", _JUMP, sizes, 0.0, {})
    sae.fold_W_dec_norm()
    sae.save_model(path)
    return _coder(sae)


def _of_heads(sizes: Sizes, path: Path) -> Coder:
    """Reads an attention layer's z, [N, heads, D / heads]; here its rows are those, joined."""
    metadata = _saes_base.SAEMetadata(model_name="gpt2", hook_name="blocks.3.attn.hook_z")
    settings = {"reshape_activations": "hook_z", "metadata": metadata}
    sae = _build("StandardSAE", _STANDARD, sizes, 0.0, settings)
    sae.save_model(path)
    return Coder(
        lambda rows_ND: sae.encode(rows_ND.unflatten(1, (2, -1))),
        lambda rows_ND: sae(rows_ND.unflatten(1, (2, -1))).flatten(1),
    )


def _rounded_checkpoint(sizes: Sizes, path: Path) -> Coder:
    sae = _build("JumpReLUTrainingSAE", _JUMP, sizes, 0.0, {"dtype": "bfloat16"})
    sae.save_model(path)
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        return _loaded(Path(folder), dtype="float32")


def _rounded(dtype: str) -> Callable[[Sizes, Path], Coder]:
    """Saved in a narrow type and computed in float32, as whoever loads it may ask."""

    def write(sizes: Sizes, path: Path) -> Coder:
        sae = _build("JumpReLUSAE", _JUMP, sizes, 0.0, {})
        sae.to(dtype=getattr(torch, dtype)).save_model(path)
        return _loaded(path, dtype="float32")

    return write


def _flat(
    names: tuple[str, ...] = _STANDARD, *, k: bool = False, scaling: bool = False, **settings: Any
) -> Callable[[Sizes, Path], Coder]:
    """As SAELens 5 wrote it: one flat object; loaded by SAELens 6."""

    def write(sizes: Sizes, path: Path) -> Coder:
        weights: dict[str, torch.Tensor] = Weights(sizes, f"flat {settings}").take(*names)
        if scaling:
            weights["scaling_factor"] = torch.ones(sizes.latents)
        save_file(weights, path / "sae_weights.safetensors")
        config = {
            "architecture": "standard",
            "d_in": sizes.width,
            "d_sae": sizes.latents,
            "activation_fn_str": "topk" if k else "relu",
            "activation_fn_kwargs": {"k": sizes.k} if k else {},
            "apply_b_dec_to_input": True,
            "finetuning_scaling_factor": False,
            "normalize_activations": "none",
            "context_size": 128,
            "model_name": "gpt2-small",
            "hook_name": "blocks.3.hook_resid_pre",
            "hook_layer": 3,
            "hook_head_index": None,
            "prepend_bos": True,
            "dataset_path": "some/text",
            "dataset_trust_remote_code": True,
            "sae_lens_training_version": None,
            "dtype": "torch.float32",
            "device": "cpu",
            **settings,
        }
        (path / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
        return _loaded(path)

    return write


CASES = [
    Case("standard", "ReLU, b_dec subtracted, norms not one", _inference("StandardSAE", _STANDARD)),
    Case(
        "standard-raw-input",
        "apply_b_dec_to_input false",
        _inference("StandardSAE", _STANDARD, apply_b_dec_to_input=False),
    ),
    Case(
        "standard-constant-norm",
        "normalize_activations constant_norm_rescale",
        _inference("StandardSAE", _STANDARD, normalize_activations="constant_norm_rescale"),
    ),
    Case(
        "standard-layer-norm",
        "normalize_activations layer_norm",
        _inference("StandardSAE", _STANDARD, normalize_activations="layer_norm"),
    ),
    Case(
        "topk-layer-norm",
        "layer_norm, the norms of decoder rows in the choice",
        _inference(
            *("TopKSAE", _STANDARD),
            k=True,
            normalize_activations="layer_norm",
            rescale_acts_by_decoder_norm=True,
        ),
    ),
    Case(
        "topk-rescaled",
        "rescale_acts_by_decoder_norm true, norms not one",
        _inference("TopKSAE", _STANDARD, k=True, rescale_acts_by_decoder_norm=True),
    ),
    Case(
        "topk-not-rescaled",
        "rescale_acts_by_decoder_norm false, norms not one",
        _inference("TopKSAE", _STANDARD, k=True, rescale_acts_by_decoder_norm=False),
    ),
    Case(
        "topk-few-positive",
        "rows with fewer than k positive pre-activations",
        _inference("TopKSAE", _STANDARD, k=True, bias=-2.0),
    ),
    Case(
        "topk-raw-input",
        "apply_b_dec_to_input false",
        _inference("TopKSAE", _STANDARD, k=True, apply_b_dec_to_input=False),
    ),
    Case(
        "topk-trained",
        "trained with rescaling, whose norms are folded though the flag stays",
        _trained("TopKTrainingSAE", _STANDARD, k=True),
    ),
    Case(
        "topk-checkpoint",
        "a training checkpoint: norms unfolded, flag set",
        _trained("TopKTrainingSAE", _STANDARD, k=True, checkpoint=True),
    ),
    Case(
        "topk-checkpoint-scaled",
        "a training checkpoint: norms unfolded, the scaling factor in a file of its own",
        _trained(
            *("TopKTrainingSAE", _STANDARD),
            k=True,
            checkpoint=True,
            scale=0.37,
            normalize_activations="expected_average_only_in",
        ),
    ),
    Case(
        "batchtopk-checkpoint-scaled",
        "the same with a threshold",
        _trained(
            *("BatchTopKTrainingSAE", _STANDARD),
            k=True,
            checkpoint=True,
            scale=0.37,
            normalize_activations="expected_average_only_in",
        ),
    ),
    Case(
        "jumprelu-checkpoint-scaled",
        "the same with a threshold of each latent",
        _trained(
            *("JumpReLUTrainingSAE", _JUMP),
            checkpoint=True,
            scale=2.3,
            normalize_activations="expected_average_only_in",
        ),
    ),
    Case(
        "batchtopk",
        "saved as jumprelu with one threshold",
        _trained("BatchTopKTrainingSAE", _STANDARD, k=True),
    ),
    Case(
        "batchtopk-scaled",
        "expected_average_only_in, its factor folded into weights and threshold",
        _trained(
            *("BatchTopKTrainingSAE", _STANDARD),
            k=True,
            scale=0.37,
            normalize_activations="expected_average_only_in",
        ),
    ),
    Case(
        "batchtopk-checkpoint",
        "a training checkpoint: topk_threshold in float64, norms unfolded",
        _trained("BatchTopKTrainingSAE", _STANDARD, k=True, checkpoint=True),
    ),
    Case(
        "batchtopk-checkpoint-not-rescaled",
        "the same without rescaling",
        _trained(
            *("BatchTopKTrainingSAE", _STANDARD),
            k=True,
            checkpoint=True,
            rescale_acts_by_decoder_norm=False,
        ),
    ),
    Case(
        "matryoshka",
        "nested batch-top-k, saved as jumprelu",
        _trained("MatryoshkaBatchTopKTrainingSAE", _STANDARD, k=True),
    ),
    Case("jumprelu", "a threshold of each latent", _inference("JumpReLUSAE", _JUMP)),
    Case(
        "jumprelu-raw-input",
        "apply_b_dec_to_input false",
        _inference("JumpReLUSAE", _JUMP, apply_b_dec_to_input=False),
    ),
    Case("jumprelu-folded", "fold_W_dec_norm before saving", _folded),
    Case(
        "jumprelu-checkpoint",
        "a training checkpoint",
        _trained("JumpReLUTrainingSAE", _JUMP, checkpoint=True),
    ),
    Case(
        "jumprelu-checkpoint-bfloat16",
        "a training checkpoint in bfloat16, whose thresholds stay float32",
        _rounded_checkpoint,
    ),
    Case("gated", "a gate and a magnitude from one product", _inference("GatedSAE", _GATED)),
    Case(
        "gated-raw-input",
        "apply_b_dec_to_input false",
        _inference("GatedSAE", _GATED, apply_b_dec_to_input=False),
    ),
    Case("standard-whitened", "covariance_whitening, folded before saving", _whitened),
    Case(
        "standard-scaled",
        "expected_average_only_in, its factor folded",
        _trained(
            *("StandardTrainingSAE", _STANDARD),
            scale=2.3,
            normalize_activations="expected_average_only_in",
        ),
    ),
    Case("standard-hook-z", "reshape_activations hook_z: heads joined to rows", _of_heads),
    Case("standard-bfloat16", "weights in bfloat16", _rounded("bfloat16")),
    Case("standard-float16", "weights in float16", _rounded("float16")),
    Case("flat-standard", "a flat configuration of SAELens 5, ReLU", _flat()),
    Case(
        "flat-topk", "a flat configuration of SAELens 5, top-k under activation_fn", _flat(k=True)
    ),
    Case(
        "flat-gated",
        "a flat configuration of SAELens 5, gated",
        _flat(_GATED, architecture="gated"),
    ),
    Case(
        "flat-scaling-factor",
        "a flat configuration with a scaling_factor of ones",
        _flat(scaling=True, apply_b_dec_to_input=False),
    ),
    Case("transcoder", "ReLU, predicts another activation", _inference("Transcoder", _STANDARD)),
    Case("skip-transcoder", "W_skip", _inference("SkipTranscoder", _SKIP)),
    Case(
        "jumprelu-transcoder",
        "thresholds",
        _inference("JumpReLUTranscoder", _JUMP),
    ),
    Case(
        "jumprelu-skip-transcoder",
        "thresholds and W_skip",
        _inference("JumpReLUSkipTranscoder", (*_JUMP, "W_skip")),
    ),
]

if __name__ == "__main__":
    run({"saelens": CASES}, lambda path: _loaded(path, dtype="float32"))
