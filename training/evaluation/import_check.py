"""The check of an import: does an autoencoder do on real text what its files say of it?"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.config import Origin
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.sites import read_sites
from ...sae.metrics import measure_rows
from ..data.corpus import open_corpus
from .conversion_faults import Cause, Rows, likely_causes, looks_wrong

_CONTEXT_LENGTH = 128
_BATCH = 8
_RANDOM_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class CheckedImport:
    """What the check measured."""

    rows: int
    """Rows measured."""
    text: str | None
    """The corpus they come from; None for random rows, whose figures only say that it runs."""
    l0: float
    fvu: float
    explained_variance: float
    dead_fraction: float
    stated: dict[str, float] = field(default_factory=dict[str, float])
    """Figures that its files or its place give, by the same names."""
    likely_causes: tuple[Cause, ...] = ()
    """What makes the figures clearly better, the best first."""
    weights_hash: str | None = None
    """SHA-256 of the language model's weights that were used."""

    @property
    def is_off(self) -> bool:
        """Whether the import is likely wrong: the figures are bad, or something does better."""
        figures = {"fvu": self.fvu, "l0": self.l0}
        bad = self.text is not None and looks_wrong(figures, self.stated.get("l0"))
        return bad or bool(self.likely_causes)


def check_on_random_rows(sae: SparseAutoencoder, stated: Mapping[str, float]) -> CheckedImport:
    """Measure it on random rows, where there is no language model: only that it encodes."""
    random = torch.Generator().manual_seed(0)
    rows_ND = torch.randn(_RANDOM_ROWS, sae.config.d_model, generator=random)
    target_ND = rows_ND if sae.config.transcoder else None
    return _measured(sae, Rows(rows_ND, target_ND), None, stated)


def check_on_text(
    sae: SparseAutoencoder,
    model: LanguageModel,
    origin: Origin,
    *,
    text: str = "news",
    tokens: int = 4096,
    stated: Mapping[str, float] | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> CheckedImport:
    """Measure an autoencoder on a few thousand tokens of real text, and try whether it does better
    with the usual mistakes of a conversion undone.

    BOS and the first token of a text, whose activations are unlike all others, are left out, as in
    a cache.

    Args:
        sae: the autoencoder.
        model: the language model that it was trained on.
        origin: its site, the site that a transcoder predicts, and whether contexts began with BOS.
        text: a corpus, as `sparsteer cache` takes it.
        tokens: to read, about.
        stated: figures of its files, such as l0.
        say: told what takes time.

    Raises:
        InputError: the model has no such site, the widths differ, or there is no text.
    """
    site = model.site(origin.site)
    sae.require_width(
        site.width,
        f"{site.name} of {model.name}",
        remedy="give the language model that it was trained on as --model",
    )
    if sae.config.transcoder and origin.target_site is None:
        raise InputError("the transcoder does not say which site it predicts; give --target-site")
    documents = _documents(text, say)
    with_bos = origin.prepends_bos is not False and model.bos_id is not None
    contexts = _contexts(model, documents, tokens, with_bos=with_bos)
    others = [] if sae.config.transcoder else _sites_near(origin.site, model)
    say(f"reading {sum(map(len, contexts)):,} tokens of {text} with {model.name}")
    read = _read(model, contexts, [site.name, *others, *filter(None, [origin.target_site])])
    target = None if origin.target_site is None else read[origin.target_site]
    rows = Rows(read[site.name], target)
    checked = _measured(sae, rows, text, stated or {}, weights_hash=model.weights_hash)
    say("trying whether another site or another conversion does better")
    elsewhere = {
        f"its site is {name}: import it with --site {name}": Rows(read[name]) for name in others
    }
    if not sae.config.transcoder:
        elsewhere |= _other_contexts(model, documents, tokens, site.name, with_bos=with_bos)
    causes = likely_causes(sae, rows, stated_l0=checked.stated.get("l0"), elsewhere=elsewhere)
    return dataclasses.replace(checked, likely_causes=tuple(causes))


def _measured(
    sae: SparseAutoencoder, rows: Rows, text: str | None, stated: Mapping[str, float], **more: Any
) -> CheckedImport:
    given = [part for part in rows if part is not None]
    result = measure_rows(sae, *given).result()
    names = ("l0", "fvu", "explained_variance", "dead_fraction")
    measured = {name: float(result[name]) for name in names}
    return CheckedImport(rows=len(rows.x), text=text, stated=dict(stated), **measured, **more)


def _documents(text: str, say: Callable[[str], None]) -> list[str]:
    corpus = open_corpus(text, progress=say)
    texts = (document.text for document in corpus.documents(seed=0, shuffle_buffer=1))
    found = [one for one in islice(texts, 2048) if one.strip()]
    if not found:
        raise InputError(f"{text} has no text to check the import on; give another --text")
    return found


def _contexts(
    model: LanguageModel, documents: list[str], tokens: int, *, with_bos: bool, chat: bool = False
) -> list[list[int]]:
    """The beginnings of documents as token ids, as many as make up so many tokens."""
    room = min(_CONTEXT_LENGTH, model.max_context) - with_bos
    bos = [model.bos_id] if with_bos and model.bos_id is not None else []
    contexts: list[list[int]] = []
    total = 0
    for document in documents:
        ids = _in_chat(model, document) if chat else model.tokenize(document)
        contexts.append([*bos, *ids[:room]])
        total += len(contexts[-1])
        if total >= tokens:
            break
    return contexts


def _in_chat(model: LanguageModel, document: str) -> list[int]:
    tokenizer: Any = model.tokenizer
    turns = [{"role": "user", "content": document}]
    return model.tokenize(tokenizer.apply_chat_template(turns, tokenize=False))


def _read(model: LanguageModel, contexts: list[list[int]], names: list[str]) -> dict[str, Tensor]:
    """The content rows of the contexts at sites, float32 on the CPU."""
    sites = [model.site(name) for name in dict.fromkeys(names)]
    parts: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    for tokens_BL, mask_BL in _padded(contexts, model.pad_id):
        rows_BL = ~model.excluded_tokens(tokens_BL, mask_BL)
        for name, acts_BLD in read_sites(model, sites, tokens_BL).items():
            parts[name].append(acts_BLD[rows_BL.to(acts_BLD.device)].float().cpu())
    return {name: torch.cat(rows) for name, rows in parts.items()}


def _padded(
    contexts: list[list[int]], pad_id: int
) -> Iterator[tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]]:
    """Batches with padding behind the text, where causal attention does not see it."""
    for start in range(0, len(contexts), _BATCH):
        batch = contexts[start : start + _BATCH]
        length = max(map(len, batch))
        tokens = [context + [pad_id] * (length - len(context)) for context in batch]
        lengths = torch.tensor([len(context) for context in batch])
        yield torch.tensor(tokens), torch.arange(length) < lengths[:, None]


def _sites_near(name: str, model: LanguageModel) -> list[str]:
    """Sites that are easily confused with one: a layer off, and the residual before and after; none
    twice, as resid_post of a layer is resid_pre of the next."""
    layer, kind = int(name.split(".")[1]), name.split("hook_")[-1]
    kinds = ["resid_post", "resid_mid", "resid_pre"] if kind.startswith("resid") else [kind]
    near = [f"blocks.{layer + step}.hook_{one}" for one in kinds for step in (-1, 0, 1)]
    found = {_activation_of(name): name}
    for other in near:
        if other in model.site_names:
            found.setdefault(_activation_of(other), other)
    return [other for other in found.values() if other != name]


def _activation_of(site: str) -> str:
    """One name for sites that are the same activation."""
    layer = int(site.split(".")[1])
    return f"blocks.{layer - 1}.hook_resid_post" if site.endswith("resid_pre") else site


def _other_contexts(
    model: LanguageModel, documents: list[str], tokens: int, site: str, *, with_bos: bool
) -> dict[str, Rows]:
    """The rows with BOS where there was none or without it, and of texts as turns of a chat."""
    found: dict[str, Rows] = {}
    if model.bos_id is not None:
        contexts = _contexts(model, documents, tokens, with_bos=not with_bos)
        sentence = (
            "it was trained on contexts without BOS, which these began with"
            if with_bos
            else "it was trained on contexts that begin with BOS, which these lacked"
        )
        found[sentence] = Rows(_read(model, contexts, [site])[site])
    if getattr(model.tokenizer, "chat_template", None):
        contexts = _contexts(model, documents, tokens, with_bos=False, chat=True)
        sentence = "it was trained on chats: give it texts in the model's chat template"
        found[sentence] = Rows(_read(model, contexts, [site])[site])
    return found
