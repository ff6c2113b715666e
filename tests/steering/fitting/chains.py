"""Tiny float64 models whose residual stream is known, and texts that are known in it."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sparsteer.sae.language_model.model import LanguageModel

LOWER, UPPER = "abcdefghij", "ABCDEFGHIJ"


def plain_model(folder: Path, family: str = "llama", *, width: int = 8, layers: int = 2) -> Any:
    """A random model of transformers in float64; `folder` has the tokenizer."""
    shape: dict[str, Any] = {
        "vocab_size": 259,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "initializer_range": 0.4,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    torch.default_generator.manual_seed(3)
    if family == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(**shape))
    else:
        model = LlamaForCausalLM(
            LlamaConfig(**shape, intermediate_size=3 * width, num_key_value_heads=2)
        )
    with torch.no_grad():  # gains and biases that matter
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                shift = 1.0 if "norm" in name or ("ln_" in name and "weight" in name) else 0.0
                weight.copy_(shift + 0.3 * torch.randn(weight.shape))
    return model.double().eval()


def wrapped(model: Any, folder: Path) -> LanguageModel:
    tokenizers: Any = AutoTokenizer
    return LanguageModel.from_transformers(model, tokenizers.from_pretrained(folder))


def without_blocks(model: Any, first: int = 0) -> Any:
    """The model with blocks from `first` on that add nothing to the residual stream."""
    layers = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    ends = ("c_proj.weight", "c_proj.bias", "o_proj.weight", "down_proj.weight")
    with torch.no_grad():
        for layer in layers[first:]:
            for name, weight in layer.named_parameters():
                if name.endswith(ends):
                    weight.zero_()
    return model


def carry_letters(model: Any, w_D: Tensor, b_D: Tensor) -> None:
    """Let the embedding of each upper-case letter be w times that of the lower-case one plus b."""
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        for low, up in zip(LOWER, UPPER, strict=True):
            table[letter(up)] = w_D * table[letter(low)] + b_D


def letter(character: str) -> int:
    """The token of a character, as the tokenizer of single bytes numbers them."""
    return 3 + sorted(pre_tokenizers.ByteLevel.alphabet()).index(character)
