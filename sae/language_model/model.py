"""A causal language model with its tokenizer, hooked at its sites."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...kernels.numerics import at_least_float32
from ..common.devices import resolve_device
from ..common.errors import InputError
from ..common.files import nearest
from ..device_map import parsed_device_map
from . import checks
from .bridge_network import BridgeNetwork
from .head import hidden_and_head, next_token_losses
from .loading import bridged, load_plain, load_tokenizer
from .locating import locate
from .long_texts import text_pieces
from .names import lasting_name
from .network import Network
from .plain_network import PlainNetwork
from .sites import Site
from .spread_loading import home_of, load_spread
from .weights_hash import loaded_weights_hash, stored_weights_hash

_DTYPES = {str(d)[6:]: d for d in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}


class LanguageModel:
    """A causal language model with its tokenizer.

    It runs in TransformerLens' bridge, or in transformers alone (`from_transformers`,
    `without_bridge`). Its activations and logits are those of the transformers model either way: no
    weight is folded or centered.
    """

    name: str
    """What the user gave: a named model, a hub name, a folder or a .gguf file."""
    source: str
    """By what it is loaded again from any folder: the name, but for a folder or file its absolute
    path."""
    network: Network
    """What runs, and is hooked at its sites."""
    n_layers: int
    """Number of blocks."""
    d_model: int
    """Width of the residual stream."""
    max_context: int
    """Longest context, in tokens."""
    device: torch.device
    """Where the model is and its results are."""
    dtype: torch.dtype
    """The dtype of weights and activations."""
    bos_id: int | None
    """Token that begins a text; None where the tokenizer has none."""
    eos_id: int | None
    """Token that ends a text; None where the tokenizer has none."""
    n_embedded: int
    """Rows of the token embedding: ids from 0 to one less can be read."""
    pad_id: int
    """Token that fills rows: the tokenizer's own if the model has an embedding for it, else EOS,
    else BOS, else 0. What stands at padding is masked."""
    special_ids: tuple[int, ...]
    """BOS, EOS and the tokenizer's own padding, as far as there are any."""

    def __init__(
        self,
        name: str,
        network: Network,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        hash_weights: Callable[[], str],
        say: Callable[[str], None] = warnings.warn,
    ) -> None:
        """Take what runs the model; `load` and `from_transformers` do."""
        self.name = name
        self.source = lasting_name(name)
        self.network = network
        self._tokenizer = tokenizer
        self.device = network.device
        original: Any = network.model
        self.dtype = next(iter(original.parameters())).dtype
        self.n_layers = network.n_layers
        self.d_model = network.d_model
        self.max_context = network.max_context
        ids: Any = tokenizer or original.config.get_text_config()
        self.bos_id, self.eos_id, pad_id = (
            _first(getattr(ids, f"{what}_token_id", None)) for what in ("bos", "eos", "pad")
        )
        self.n_embedded = len(original.get_input_embeddings().weight)
        ends = [i for i in (self.bos_id, self.eos_id) if i is not None]
        if tokenizer is not None:
            self.require_embedded(ends, "the tokenizer of " + name)
        self._fill_ids = [i for i in (pad_id, *ends[::-1]) if i is not None]
        embedded = [i for i in self._fill_ids if i < self.n_embedded]
        self.pad_id = next(iter(embedded), 0)
        self.special_ids = tuple(dict.fromkeys(embedded))
        self._special_ids_by_device: dict[torch.device, Tensor] = {}
        self._hash_weights = hash_weights
        self._say = say
        self._original: PreTrainedModel | None = None
        self._plain: LanguageModel | None = None
        self._read_alike: set[str] = set()

    @classmethod
    def load(
        cls,
        source: str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        device_map: str | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> "LanguageModel":
        """Load a model by name: `smollm2-135m` (fetched if it is not there yet), a folder of
        transformers, a .gguf file, or a name on the Hugging Face hub.

        `device` is "cpu", "cuda", "cuda:1" and so on, or "auto" for CUDA where there is one;
        `dtype` is float32, bfloat16, float16, float64, or "auto" for what is stored. `device_map`,
        in place of `device`, spreads a model that is too large for one over several: "auto",
        "balanced" or a JSON object, see `parsed_device_map`; it then runs without the bridge,
        through accelerate. `progress` is
        told of steps that take time, and later if text is generated without a cache, of which
        Python warns without it. Only a name that is not fetched yet and a hub name use the network.
        Only safetensors and GGUF weights are read, never a pickle.

        Raises InputError if the model is not found, not usable or damaged, does not give the logits
        of transformers in the bridge, or the device or dtype is unknown, and FetchError if fetching
        fails.
        """
        if dtype not in _DTYPES and dtype != "auto":
            raise InputError(f"dtype {dtype!r} is unknown; use one of {', '.join(_DTYPES)}, auto")
        places = None if device_map is None else parsed_device_map(device_map)
        where = resolve_device(device if places is None else "auto")
        path = locate(source, progress or _nothing)
        (progress or _nothing)(f"loading {source}")
        if places is None:
            original, tokenizer = load_plain(path, where, _DTYPES.get(dtype))
        else:
            original, tokenizer = load_spread(path, places, _DTYPES.get(dtype))
        if original.dtype not in _DTYPES.values():
            raise InputError(
                f"{source} is stored in {str(original.dtype)[6:]}, in which it cannot run; give a "
                f"dtype such as {', '.join(_DTYPES)}"
            )
        hash_weights = cache(lambda: stored_weights_hash(path))
        say = progress or warnings.warn
        if places is not None:
            spread = PlainNetwork(original, home=home_of(original))
            return cls(source, spread, tokenizer, hash_weights=hash_weights, say=say)
        network = bridged(original, tokenizer, path=str(path))
        model = cls(source, network, tokenizer, hash_weights=hash_weights, say=say)
        model._original = original
        return model

    @classmethod
    def from_transformers(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str | None = None,
    ) -> "LanguageModel":
        """A model of transformers that is in memory, as it is: with its own attention, dtype and
        device, and without TransformerLens' bridge.

        Nothing of the model is changed. While one of its sites is written, and within
        `sparsteer.steering.steer`, every forward pass of it is, `model.generate` included; its own
        hooks stay, and are called first.

        Args:
            model: any decoder of transformers.
            tokenizer: its own. Without it no text can be tokenized, and BOS, EOS and padding are
                those of the configuration.
            name: what to call the model; by default what it was loaded from, or its class.

        Raises:
            InputError: the model's decoder layers cannot be found, or the tokenizer has tokens that
                the model has no embedding for.
        """
        called: Any = model
        return cls(
            name or called.name_or_path or type(model).__name__,
            PlainNetwork(model),
            tokenizer,
            hash_weights=cache(lambda: loaded_weights_hash(model)),
        )

    def without_bridge(self) -> "LanguageModel":
        """The same model run by transformers alone, which is faster; the weights are shared.

        Attention is the kind that transformers takes of itself. Sites that are written here are not
        written there.
        """
        if self._original is None:
            return self
        if self._plain is None:
            self._plain = LanguageModel(
                self.name,
                PlainNetwork(self._original, max_context=self.max_context),
                self._tokenizer,
                hash_weights=self._hash_weights,
                say=self._say,
            )
        return self._plain

    def fastest(self, sites: Sequence[str]) -> "LanguageModel":
        """The model as it reads these sites fastest: `without_bridge`, if it has them there and a
        few tokens have the activations that the bridge gives, in which nothing may be hooked; else
        as it is, which is said."""
        plain = self.without_bridge()
        if not isinstance(self.network, BridgeNetwork) or self.network.is_hooked:
            return self
        unknown = [site for site in sites if site not in self._read_alike]
        if unknown and (site := checks.differing_site(self.network, plain.network, unknown)):
            self._say(f"{self.name} is read in TransformerLens' bridge, which alone has {site}")
            return self
        self._read_alike.update(unknown)
        return plain

    @cached_property
    def bridge(self) -> TransformerBridge:
        """The model in TransformerLens' bridge, which `load` builds.

        Otherwise it is built when it is asked for first, around the same weights; sites that are
        written here are then not written there.

        Raises InputError for a model that is spread by a device map.
        """
        if isinstance(self.network, BridgeNetwork):
            return self.network.bridge
        if isinstance(self.network, PlainNetwork) and self.network.is_spread:
            raise InputError(
                f"{self.name} is spread over devices, which TransformerLens' bridge cannot run; "
                "leave device_map out",
                field="device_map",
            )
        with TemporaryDirectory() as name:
            # The bridge looks for files of the tokenizer, which need not be where it came from.
            folder = Path(name)
            self.tokenizer.save_pretrained(folder)  # pyright: ignore[reportUnknownMemberType]
            return bridged(self.network.model, load_tokenizer(folder), path=self.name).bridge

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer as it was loaded; the bridge has a copy of its own, which prepends BOS.

        Raises InputError where none was given to `from_transformers`.
        """
        if self._tokenizer is None:
            raise InputError(
                f"{self.name} has no tokenizer; give LanguageModel.from_transformers one"
            )
        return self._tokenizer

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.n_layers} layers, d_model {self.d_model})"

    @property
    def dtype_name(self) -> str:
        """The dtype as it is written in files and options, such as float32."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def weights_hash(self) -> str:
        """SHA-256 over the weights as they are stored: names, dtypes, shapes and bytes.

        It does not depend on how the weights are split into files, nor on the dtype loaded, nor on
        other files in the folder. The weights are read for it, once. For a .gguf file it is that of
        the file, and for a model that was given in memory that of the weights there.
        """
        return self._hash_weights()

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 over the tokenizer's rules, vocabulary and special tokens."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        rules: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
        for setting in ("truncation", "padding"):  # state of the last call, no part of the rules
            rules.pop(setting, None)
        special = (self.bos_id, self.eos_id, next(iter(self._fill_ids), None))
        facts = [rules, sorted(self.tokenizer.get_vocab().items()), special]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def site_names(self) -> list[str]:
        """The sites of this model, in the order of its layers."""
        return self.network.site_names

    @cached_property
    def kv_cache_works(self) -> bool:
        """Whether steps with a key-value cache give what a pass over the whole text gives.

        Found once, with a few tokens, alone and in a padded batch. Where it does not, text is
        generated without one, which is said in a sentence.
        """
        fault = checks.cache_fault(self.network)
        if fault is not None:
            self._say(f"{self.name} generates without a key-value cache, which is slower: {fault}")
        return fault is None

    @cached_property
    def rows_join(self) -> bool:
        """Whether texts may join and leave a batch that is being continued, each as if it were
        alone. Found once, with a few tokens; where not, texts are continued each on its own, which
        is said in a sentence.
        """
        fault = None
        if "left" in self.wrong_padding:
            fault = "it takes padding on the left of a row for text"
        elif self.kv_cache_works:
            fault = checks.joining_fault(self.network)
        if fault is not None:
            self._say(f"{self.name} continues each text on its own, which is slower: {fault}")
        return fault is None

    @cached_property
    def wrong_padding(self) -> frozenset[str]:
        """The sides, left and right, on which padding changes what the rest of a row gives."""
        return checks.wrong_padding(self.network)

    def require_padding(self, attention_mask: Bool[Tensor, "B L"]) -> None:
        """Raise InputError if the rows are padded on a side where this model takes padding for
        text; found once, with a few tokens."""
        gaps = {"left": attention_mask[:, 0], "right": attention_mask[:, -1]}
        padded = [side for side, real_B in gaps.items() if not real_B.all()]
        if wrong := [side for side in padded if side in self.wrong_padding]:
            raise InputError(
                f"{self.name} takes padding on the {wrong[0]} of a row for text, so the rows of a "
                "batch must have one length; give --batch-size 1"
            )

    def site(self, name: str | None = None) -> Site:
        """The site called `name`; by default the residual stream after the middle layer.

        Raises InputError for an unknown name, with the nearest ones.
        """
        if name is None:
            name = f"blocks.{self.n_layers // 2}.hook_resid_post"
        if not self.network.has(name):
            near = nearest(name, self.site_names) or [self.site().name]
            raise InputError(
                f"{self.name} has no site {name!r}; its layers are 0 to {self.n_layers - 1}, so "
                f"try {' or '.join(near)}"
            )
        return Site(name, self)

    def tokenize(self, text: str) -> list[int]:
        """The token ids of a text; no special tokens are added, those written in it are read.

        Raises InputError for a text with a token that the model has no embedding for.
        """
        ids: list[int] = []
        for piece in text_pieces(text):
            encoded: Any = self.tokenizer(piece, add_special_tokens=False, verbose=False)
            ids += encoded["input_ids"]
        return self.require_embedded(ids)

    def token_pieces(self, text: str) -> Iterator[list[int]]:
        """The token ids of a text piece by piece, so that memory is bounded however long it is.

        A text of up to 262,144 characters is one piece. Read only as far as they are needed.
        """
        for piece in text_pieces(text):
            yield self.tokenize(piece)

    def require_embedded(self, ids: list[int], where: str = "a text") -> list[int]:
        """The ids as they are; InputError if the model has no embedding for one of them.

        `where` says who has the token.
        """
        if not ids or (min(ids) >= 0 and max(ids) < self.n_embedded):
            return ids
        if min(ids) < 0:
            raise InputError(f"{where} has the token id {min(ids)}; ids are whole numbers from 0")
        beyond = max(ids)
        token = ""
        if self._tokenizer is not None and beyond < len(self._tokenizer):
            token = f" {self._tokenizer.convert_ids_to_tokens([beyond])[0]!r}"
        raise InputError(
            f"{where} has the token{token} with id {beyond}, but the embedding of {self.name} "
            f"has {self.n_embedded} rows; resize the model with transformers' "
            "resize_token_embeddings and save it, or give the tokenizer that it was saved with"
        )

    def excluded_tokens(
        self, tokens: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"] | None = None
    ) -> Bool[Tensor, "B L"]:
        """Which tokens are not content: their activations are left out of statistics.

        True at padding, at BOS, EOS and PAD tokens, and at the first other token of each row:
        models use the first position as an attention sink, where the residual stream's norm is far
        above that of other positions.
        """
        real = attention_mask
        if real is None:
            real = torch.ones_like(tokens, dtype=torch.bool)
        ids = self._special_ids_on(tokens.device).to(tokens.dtype)
        special = torch.isin(tokens, ids)
        content = real & ~special
        first = content & (content.cumsum(dim=1) == 1)
        return ~content | first

    def _special_ids_on(self, device: torch.device) -> Int[Tensor, "S"]:
        """`special_ids` on a device, copied there once: the host would wait for each copy."""
        if device not in self._special_ids_by_device:
            ids = torch.tensor(self.special_ids, dtype=torch.int64, device=device)
            self._special_ids_by_device[device] = ids
        return self._special_ids_by_device[device]

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L V"]:
        """Next-token logits of every position. Rows may be padded on either side.

        Raises InputError if the rows are longer than the model's context.
        """
        return self.run(tokens, attention_mask)

    @torch.no_grad()
    def next_token_loss(
        self, tokens: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L-1"]:
        """Cross entropy of every next token, in nats; 0 where it or the token before is padding.

        [:, t] is the loss of predicting token t + 1. The logits are computed and dropped a few
        positions at a time, so that memory stays small whatever the vocabulary. Edits made with
        `Site.write` apply.

        Raises InputError if the rows are longer than the model's context.
        """
        hidden_BLD, head = self.before_head(tokens, attention_mask)
        return next_token_losses(
            hidden_BLD,
            head,
            tokens.to(self.device, torch.int64),
            None if attention_mask is None else attention_mask.to(self.device),
            n_vocab=self.network.n_vocab,
            dtype=at_least_float32(self.dtype),
        )

    def run(
        self, tokens: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "..."]:
        """One forward pass without a key-value cache; hooks fire. Positions follow the mask.

        Raises InputError if the rows are longer than the model's context, hold an id without an
        embedding, or are padded on a side where the model takes padding for text.
        """
        if tokens.shape[1] > self.max_context:
            raise InputError(
                f"{tokens.shape[1]} tokens in a row are more than the {self.max_context} that "
                f"{self.name} takes; shorten the context"
            )
        self.require_embedded([int(tokens.max())] if tokens.numel() else [])
        mask = None
        if attention_mask is not None:
            self.require_padding(attention_mask)
            mask = attention_mask.to(self.device, torch.int64)
        # A GPU takes tokens from pinned memory when it comes to them; nobody waits.
        queued = tokens.to(self.device, torch.int64, non_blocking=tokens.is_pinned())
        return self.network(queued, mask, use_cache=False)

    @torch.no_grad()
    def before_head(
        self, tokens: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"] | None = None
    ) -> tuple[Float[Tensor, "B L H"], Callable[[Tensor], Tensor]]:
        """What the logits are computed from, and the function that computes them, row by row.

        So nobody needs hold the logits of all positions at once; see `hidden_and_head`. Edits made
        with `Site.write` apply.

        Raises InputError if the rows are longer than the model's context.
        """
        return hidden_and_head(self.network, lambda: self.run(tokens, attention_mask))


def _nothing(message: str) -> None:
    pass


def _first(value: Any) -> int | None:
    """An id, or the first of several."""
    if not isinstance(value, list):
        return value
    return next(iter(cast(list[int], value)), None)
