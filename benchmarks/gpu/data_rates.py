"""How many rows a second training is given from a cache, and caching takes from a language model.

The cache holds random rows in the page cache; the language model is a random one of SmolLM2-135M's
shape, so that nothing is downloaded. Without transformers and datasets caching is left out.
"""

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from random_cache import SITE, write_random_cache

from sparsteer.training import ActivationCache
from sparsteer.training.data.corpus_config import CacheDtype

from .device import Device
from .rows import Judged, NotThere, Rows

_BATCH = 8192


def measure_data(device: Device, rows: Rows, tiny: bool) -> None:
    """The loader at two widths and two dtypes, then caching."""
    dtypes: list[tuple[CacheDtype, int]] = [("bfloat16", 768), ("float16", 768), ("bfloat16", 4096)]
    if tiny:
        dtypes = [("bfloat16", 16)]
    n_rows = 4096 if tiny else 300_000
    for dtype, width in dtypes:
        size = n_rows if width < 1000 else n_rows // 4
        rows.run(
            f"loader, width {width}, {dtype}",
            partial(time_loader, device, size, width, dtype, 256 if tiny else _BATCH),
        )
    rows.run("caching", partial(time_caching, device, tiny))


def time_loader(
    device: Device, n_rows: int, width: int, dtype: CacheDtype, batch_size: int
) -> Judged:
    """Rows a second of the batches on the device, as training takes them, an epoch of them."""
    with tempfile.TemporaryDirectory() as folder:
        write_random_cache(Path(folder), n_rows, width, dtype)
        cache = ActivationCache(folder)
        per_epoch = cache.n_train // batch_size
        first, *rest = [_epoch(device, cache, batch_size, epoch) for epoch in range(3)]
    rate = per_epoch * batch_size / min(rest)
    return Judged().note(
        first_rows_per_s=per_epoch * batch_size / first,
        rows_per_s=rate,
        gb_per_s=rate * width * torch.float32.itemsize / 1e9,
    )


def _epoch(device: Device, cache: ActivationCache, batch_size: int, epoch: int) -> float:
    per_epoch = cache.n_train // batch_size
    started = time.perf_counter()
    on_device = torch.device(device.kind)
    batches = cache.batches(batch_size, site=SITE, start=epoch * per_epoch, device=on_device)
    total = torch.zeros((), device=device.kind)
    for x in islice(batches, per_epoch):
        total += x[0, 0]  # used on the device, so that it must be there
    batches.close()
    device.synchronize()
    assert bool(total.isfinite())
    return time.perf_counter() - started


def time_caching(device: Device, tiny: bool) -> Judged:
    """Tokens a second of `cache_activations`, as a fraction of the model's own forward pass."""
    try:
        transformers: Any = import_module("transformers")
        for name in ("tokenizers", "datasets", "transformer_lens"):
            import_module(name)
    except ImportError as error:
        raise NotThere(str(error)) from None
    n_layers, n_tokens = (3, 2000) if tiny else (30, 400_000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_model(transformers, folder / "model", n_layers, width=32 if tiny else 576)
        _write_texts(folder / "texts.jsonl", n_tokens)
        return _compare_caching(device, folder, n_tokens, f"blocks.{n_layers // 2}.hook_resid_post")


def _compare_caching(device: Device, folder: Path, n_tokens: int, site: str) -> Judged:
    language_model = import_module("sparsteer.sae.language_model.model").LanguageModel
    training = import_module("sparsteer.training")
    model = language_model.load(str(folder / "model"), dtype="bfloat16", device=device.kind)
    tokens = torch.randint(3, 250, (16, 128), device=device.kind)
    network: Any = model.without_bridge().network.model

    def forward() -> None:
        with torch.no_grad():
            network(tokens, use_cache=False)

    forward_rate = tokens.numel() * _rate(device, forward)
    config = training.CacheConfig(
        model=model.name,
        dataset=str(folder / "texts.jsonl"),
        out=str(folder / "cache"),
        tokens=n_tokens,
        site=(site,),
        batch_size=16,
    )
    started = time.perf_counter()
    training.cache_activations(config, model=model)
    device.synchronize()
    rows = training.ActivationCache(folder / "cache").manifest.rows
    rate = rows / (time.perf_counter() - started)
    return Judged().note(
        rows_per_s=rate,
        forward_tokens_per_s=forward_rate,
        of_whole_forward=rate / forward_rate,
    )


def _rate(device: Device, call: Callable[[], None]) -> float:
    call()
    device.synchronize()
    started = time.perf_counter()
    for _ in range(5):
        call()
    device.synchronize()
    return 5 / (time.perf_counter() - started)


def _write_texts(path: Path, n_tokens: int) -> None:
    """Documents of random letters, of which a tokenizer of bytes makes more tokens than asked."""
    generator = torch.Generator().manual_seed(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(2 * n_tokens // 1000 + 40):
            letters = torch.randint(97, 123, (1000,), generator=generator).to(torch.uint8)
            file.write(json.dumps({"text": bytes(letters.numpy()).decode()}) + "\n")


def _write_model(transformers: Any, folder: Path, n_layers: int, width: int) -> None:
    """A random Llama of SmolLM2-135M's proportions, with a tokenizer of single bytes."""
    tokenizers: Any = import_module("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = ["<|pad|>", "<|bos|>", "<|eos|>", *alphabet]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|eos|>"
    ).save_pretrained(folder)
    heads = max(1, width // 64)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 8 * 8,
        num_hidden_layers=n_layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 3),
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
