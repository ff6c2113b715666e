"""K-sparse probing of autoencoders: can a few of their latents tell what a text is about?

After Gurnee et al. (arXiv 2305.01610) and SAEBench (2503.09532), on the tasks of Kantamneni et al.
(2502.16681), who found probes of the raw activation to do as well or better: so these are measured
beside them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ....sae.autoencoder import SparseAutoencoder
from ....sae.common.errors import InputError
from ....sae.compatibility import require_fits
from ....sae.language_model.model import LanguageModel
from .config import ProbingSettings
from .pooled import PooledCodes, PooledText, join_texts
from .probes import (
    dense_probe,
    fit_probe,
    held_out_texts,
    ranked_latents,
    shuffled,
)
from .reading import ReadTask, read_tasks
from .result import Arm, ProbeScore, ProbingResult, TaskFacts
from .tasks import ProbingTask, load_tasks


def probe(
    saes: Sequence[SparseAutoencoder],
    model: LanguageModel,
    site: str,
    tasks: Sequence[ProbingTask] | None = None,
    settings: ProbingSettings | None = None,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ProbingResult:
    """Fit probes of few latents, and their controls, to tasks of texts with two labels.

    Texts are read once for all autoencoders and seeds. For each seed they are split by a hash into
    training and held-out ones, with half of each label on both sides and no text on both. Latents
    are chosen, columns scaled and probes fitted on the training side; accuracy and AUC are those of
    the held-out side, where chance is one half.

    Args:
        saes: autoencoders of the site; baselines such as PCA or random directions are
            autoencoders, too.
        model, site: the language model that they belong to, and where they read it.
        tasks: by default those that `settings` names, which may be fetched for it.
        settings: tasks, texts, numbers of latents, seeds and pooling; by default
            `ProbingSettings()`.
        say: sentences for a person.
        progress: told the tokens read so far, and how many there are to read.

    Raises:
        InputError: an autoencoder has another width than the site, a task is unknown or has too few
            texts, there is no task, or an activation is not finite.
        FetchError: the texts cannot be brought.
    """
    settings = settings or ProbingSettings()
    if tasks is None:
        tasks = load_tasks(settings.tasks, progress=say)
    if not tasks:
        raise InputError("there is no task to probe; give one", field="tasks")
    for sae in saes:
        require_fits(sae, site=model.site(site))
    facts: list[TaskFacts] = []
    of_activation: list[ProbeScore] = []
    of_saes: list[list[ProbeScore]] = [[] for _ in saes]
    for task in read_tasks(saes, model, site, tasks, settings, progress):
        splits = [_Split(task, seed) for seed in range(settings.seeds)]
        of_activation += [
            score for split in splits for score in split.activation_scores(settings.ks)
        ]
        for scores, codes in zip(of_saes, task.codes, strict=True):
            scores += [
                score for split in splits for score in split.latent_scores(codes, settings.ks)
            ]
        facts.append(
            TaskFacts(
                task.name,
                task.labels,
                texts=len(task.examples),
                held_out=int(splits[0].held_out_N.sum()),
                tokens=sum(len(example.tokens) for example in task.examples),
            )
        )
    return ProbingResult(
        model=model.name,
        site=site,
        pooling=settings.pooling,
        max_length=settings.max_length,
        tasks=tuple(facts),
        activation=tuple(of_activation),
        autoencoders=tuple(map(tuple, of_saes)),
    )


class _Split:
    """One way to split the texts of a task, and the probes that are fitted for it."""

    def __init__(self, task: ReadTask, seed: int) -> None:
        self.task = task
        self.seed = seed
        self.texts = [example.text for example in task.examples]
        self.labels_N = task.labels_N
        self.held_out_N = held_out_texts(self.texts, self.labels_N, seed)

    def activation_scores(self, ks: Sequence[int]) -> list[ProbeScore]:
        """Of probes of the best coordinates, and of all."""
        acts_ND = self.task.activations
        every = torch.arange(acts_ND.shape[1])
        coordinates = join_texts([PooledText(every, acts_D) for acts_D in acts_ND], len(every))
        best = ranked_latents(coordinates, self.labels_N, self.held_out_N, ks[-1])
        dense = dense_probe(acts_ND, self.texts, self.labels_N, self.held_out_N, self.seed)
        return [
            *self._scores("coordinates", coordinates, best, self.labels_N, ks),
            ProbeScore(self.task.name, "dense", None, self.seed, *dense, columns=()),
        ]

    def latent_scores(self, codes: PooledCodes, ks: Sequence[int]) -> list[ProbeScore]:
        """Of probes of the best latents, of random ones, and of the best for shuffled labels."""
        labels_N, held_out_N, most = self.labels_N, self.held_out_N, ks[-1]
        mixed_N = shuffled(labels_N, held_out_N, self.seed)
        firing = codes.firing(~held_out_N)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = firing[torch.randperm(len(firing), generator=generator)[:most]]
        best = ranked_latents(codes, labels_N, held_out_N, most)
        best_mixed = ranked_latents(codes, mixed_N, held_out_N, most)
        return [
            *self._scores("latents", codes, best, labels_N, ks),
            *self._scores("random_latents", codes, drawn, labels_N, ks),
            *self._scores("shuffled_labels", codes, best_mixed, mixed_N, ks),
        ]

    def _scores(
        self, arm: Arm, codes: PooledCodes, order: Tensor, labels_N: Tensor, ks: Sequence[int]
    ) -> list[ProbeScore]:
        """Of probes of the first so many latents; of all of them where they are fewer."""
        columns_NK = codes.columns(order)
        return [
            ProbeScore(
                self.task.name,
                arm,
                k,
                self.seed,
                *fit_probe(columns_NK[:, :k], labels_N, self.held_out_N),
                columns=tuple(int(column) for column in order[:k]),
            )
            for k in ks
        ]
