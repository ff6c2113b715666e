"""Autoencoders of llamascopium, the library of Llama Scope, saved and loaded by it; runs in its
environment."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exchange import Case, Coder, Sizes, Weights, run
from torch import Tensor

_sae: Any = importlib.import_module("llamascopium.models.sae")
_IN, _OUT = "blocks.3.hook_resid_post", "blocks.3.hook_mlp_out"


def _coder(sae: Any, *, times_norms: bool) -> Coder:
    """Its codes of normalized rows, and its reconstruction of the rows as they were.

    `times_norms`: codes are multiplied by the norms of decoder rows for raw activations.
    """
    target = sae.cfg.hook_point_out

    def normalized(rows_ND: Tensor) -> tuple[Tensor, Tensor]:
        batch, scales = sae.normalize_activations(
            {sae.cfg.hook_point_in: rows_ND, target: rows_ND}, return_scale_factor=True
        )
        return batch[sae.cfg.hook_point_in], scales[target]

    def encode(rows_ND: Tensor) -> Tensor:
        inputs_ND, scale = normalized(rows_ND)
        codes_NF = sae.encode(inputs_ND)
        return codes_NF * sae.decoder_norm() / scale if times_norms else codes_NF

    def reconstruct(rows_ND: Tensor) -> Tensor:
        inputs_ND, scale = normalized(rows_ND)
        decoded_ND = sae.decode(sae.encode(inputs_ND))
        return sae.denormalize_activations({target: decoded_ND}, {target: scale})[target]

    return Coder(encode, reconstruct)


def _saved(
    *,
    transcoder: bool = False,
    fold: bool = False,
    times_norms: bool = False,
    **settings: Any,
) -> Callable[[Sizes, Path], Coder]:
    """Saved by `save_pretrained` and `save_hyperparameters`, and loaded again."""

    def write(sizes: Sizes, path: Path) -> Coder:
        config = _sae.SAEConfig(
            d_model=sizes.width,
            expansion_factor=sizes.latents / sizes.width,
            hook_point_in=_IN,
            hook_point_out=_OUT if transcoder else _IN,
            top_k=sizes.k,
            **{"sparsity_include_decoder_norm": False, **settings},
        )
        sae = _sae.SparseAutoEncoder(config)
        weights = Weights(sizes, f"llamascopium {transcoder} {settings}")
        state = {
            "W_E": weights["W_enc"],
            "b_E": weights["b_enc"],
            "W_D": weights["W_dec"],
        }
        if config.use_decoder_bias:
            state["b_D"] = weights["b_dec"]
        if config.act_fn == "jumprelu":
            state["activation_function.log_jumprelu_threshold"] = weights["threshold"].log()
        sae.load_state_dict({**sae.state_dict(), **state})
        sae.set_dataset_average_activation_norm({_IN: 7.3, _OUT: 2.1} if transcoder else {_IN: 7.3})
        sae.save_pretrained(path, fold_activation_scale=fold)
        sae.cfg.save_hyperparameters(path)
        again = _sae.SparseAutoEncoder.from_pretrained(str(path))
        return _coder(again, times_norms=times_norms)

    return write


CASES = [
    Case("llamascopium-relu", "rows of norm sqrt(D) on average go in", _saved()),
    Case("llamascopium-folded", "that factor folded into the weights", _saved(fold=True)),
    Case(
        "llamascopium-token-wise",
        "each row scaled to norm sqrt(D)",
        _saved(norm_activation="token-wise"),
    ),
    Case("llamascopium-jumprelu", "logarithms of thresholds", _saved(act_fn="jumprelu")),
    Case(
        "llamascopium-jumprelu-norms",
        "thresholds for pre-activations times norms, which codes do not have",
        _saved(act_fn="jumprelu", sparsity_include_decoder_norm=True),
    ),
    Case("llamascopium-topk", "norms not one and not in the choice", _saved(act_fn="topk")),
    Case(
        "llamascopium-topk-norms",
        "chosen by pre-activations times norms, by which codes are multiplied to compare",
        _saved(act_fn="topk", sparsity_include_decoder_norm=True, times_norms=True),
    ),
    Case(
        "llamascopium-no-decoder-bias",
        "no b_D",
        _saved(use_decoder_bias=False),
    ),
    Case(
        "llamascopium-transcoder",
        "a factor on either side",
        _saved(transcoder=True, act_fn="jumprelu"),
    ),
]

if __name__ == "__main__":
    run({"llama_scope": CASES})
