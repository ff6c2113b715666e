"""Texts of tasks through a language model, once, and their pooled activations and codes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ....sae.autoencoder import SparseAutoencoder
from ....sae.common.errors import InputError
from ....sae.language_model.model import LanguageModel
from ....sae.language_model.sites import read_sites
from .config import LEAST_TEXTS, ProbingSettings
from .pooled import PooledCodes, PooledText, join_texts, pool_codes
from .tasks import ProbingTask


@dataclass(frozen=True)
class Example:
    """A text of a task as it is read."""

    text: str
    label: bool
    tokens: tuple[int, ...]
    """What is read of it, without BOS."""


@dataclass(frozen=True, eq=False)
class ReadTask:
    """The chosen texts of a task, as many of each label, and what was read of them."""

    name: str
    labels: tuple[str, str]
    examples: tuple[Example, ...]
    activations: Float[Tensor, "N D"]
    """Pooled raw activations in float64, on the CPU."""
    codes: tuple[PooledCodes, ...]
    """Of each autoencoder."""

    @property
    def labels_N(self) -> Bool[Tensor, "N"]:
        """Which texts have the second label."""
        return torch.tensor([example.label for example in self.examples])


def read_tasks(
    saes: Sequence[SparseAutoencoder],
    model: LanguageModel,
    site: str,
    tasks: Sequence[ProbingTask],
    settings: ProbingSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[ReadTask]:
    """Choose texts of each task, read them at the site, and pool activations and codes over the
    content tokens of each; one task after the other, so that memory holds one.

    The model runs once for all autoencoders, on batches of texts of about one length, each behind
    BOS.

    Args:
        saes: of the site's width; each may be on a device of its own.
        model, site: the language model, and where to read it.
        tasks: what to read.
        settings: how many texts, how long, and how they are pooled.
        progress: told the tokens read so far, and how many there are to read.

    Raises InputError if a task has too few texts or an activation is not finite.
    """
    chosen = [choose_examples(task, model, settings) for task in tasks]
    total = sum(len(example.tokens) for examples in chosen for example in examples)
    norms = [sae.decoder_norms().cpu().double() for sae in saes]
    reader = model.fastest([site])
    last = settings.pooling == "last"
    done = 0
    for task, examples in zip(tasks, chosen, strict=True):
        activations: dict[int, Tensor] = {}
        codes: list[dict[int, PooledText]] = [{} for _ in saes]
        for numbers in _batches(examples, settings.batch_tokens):
            rows_CD, lengths = _content_rows(reader, site, [examples[number] for number in numbers])
            for number, own_TD in zip(numbers, torch.split(rows_CD, lengths), strict=True):
                activations[number] = (own_TD[-1:] if last else own_TD).double().mean(0).cpu()
            for sae, norms_F, pooled in zip(saes, norms, codes, strict=True):
                with torch.no_grad():
                    of_rows = sae.encode(rows_CD.to(sae.W_enc))
                found = pool_codes(of_rows, lengths, norms_F, last=last)
                pooled.update(zip(numbers, found, strict=True))
            done += sum(len(examples[number].tokens) for number in numbers)
            progress(done, total)
        every = range(len(examples))
        yield ReadTask(
            task.name,
            task.labels,
            tuple(examples),
            torch.stack([activations[number] for number in every]),
            tuple(
                join_texts([pooled[number] for number in every], sae.config.n_latents)
                for sae, pooled in zip(saes, codes, strict=True)
            ),
        )


def choose_examples(
    task: ProbingTask, model: LanguageModel, settings: ProbingSettings
) -> list[Example]:
    """The first texts of a task, as many of each label, that differ in what is read of them.

    A text without a content token is passed over. Where two begin alike for `max_length` tokens the
    first is taken, and neither if their labels differ.

    Raises InputError if there are fewer than 30 of a label.
    """
    half = settings.texts // 2
    limit = min(settings.max_length, model.max_context - (model.bos_id is not None))
    found: dict[tuple[int, ...], Example] = {}
    unclear: set[tuple[int, ...]] = set()
    counts = {False: 0, True: 0}
    for text, label in task.texts:
        if min(counts.values()) == half:
            break
        tokens = _first_tokens(model, text, limit)
        if sum(token not in model.special_ids for token in tokens) < 2 or tokens in unclear:
            continue  # the first token is no content
        earlier = found.get(tokens)
        if earlier is not None and earlier.label != label:
            unclear.add(tokens)
            counts[earlier.label] -= 1
            del found[tokens]
        elif earlier is None and counts[label] < half:
            found[tokens] = Example(text, label, tokens)
            counts[label] += 1
    fewest = min(counts.values())
    if fewest < LEAST_TEXTS:
        raise InputError(
            f"the task {task.name!r} has {fewest} different texts of a label, but a probe needs "
            f"{LEAST_TEXTS}; choose another task",
            field="tasks",
        )
    left = dict.fromkeys(counts, fewest)
    examples: list[Example] = []
    for example in found.values():
        left[example.label] -= 1
        if left[example.label] >= 0:
            examples.append(example)
    return examples


def _first_tokens(model: LanguageModel, text: str, limit: int) -> tuple[int, ...]:
    readable = text.encode("utf-8", "replace").decode("utf-8")
    ids: list[int] = []
    for piece in model.token_pieces(readable):
        ids += piece[: limit - len(ids)]
        if len(ids) == limit:
            break
    return tuple(ids)


def _batches(examples: Sequence[Example], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of texts for one forward pass each, the longest first."""
    order = sorted(range(len(examples)), key=lambda number: -len(examples[number].tokens))
    while order:
        longest = 1 + len(examples[order[0]].tokens)  # with BOS
        n_texts = max(1, batch_tokens // longest)
        yield order[:n_texts]
        order = order[n_texts:]


def _content_rows(
    model: LanguageModel, site: str, examples: Sequence[Example]
) -> tuple[Float[Tensor, "C D"], list[int]]:
    """The activations of the content tokens of texts, one text after the other, and how many each
    has."""
    prefix = () if model.bos_id is None else (model.bos_id,)
    read = [(*prefix, *example.tokens) for example in examples]
    length = max(map(len, read))
    # Padding stands behind the text, where causal attention does not see it.
    tokens_BL = torch.full((len(read), length), model.pad_id)
    mask_BL = torch.zeros(len(read), length, dtype=torch.bool)
    for row, ids in enumerate(read):
        tokens_BL[row, : len(ids)] = torch.tensor(ids)
        mask_BL[row, : len(ids)] = True
    kept_BL = ~model.excluded_tokens(tokens_BL, mask_BL)
    acts_BLD = read_sites(model, [model.site(site)], tokens_BL, mask_BL)[site]
    rows_CD = acts_BLD[kept_BL.to(acts_BLD.device)]
    if not rows_CD.isfinite().all():
        raise InputError(
            f"the model gives NaN or infinite activations at {site}; check its weights, or choose "
            "another site"
        )
    return rows_CD, [int(n) for n in kept_BL.sum(-1)]
