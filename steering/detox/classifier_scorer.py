"""How toxic texts are, by a text classifier of transformers, such as the published ones of
Detoxify.

Of the hub's files configuration, tokenizer and safetensors are read alone, so that nothing is
unpickled and no code of a repository runs. The package detoxify, whose own loader unpickles, is not
needed.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ...sae.common.devices import resolve_device
from ...sae.common.errors import InputError
from ...sae.language_model.locating import locate

DETOXIFY = "unitary/toxic-bert"
"""Detoxify's model `original`, trained on Jigsaw's comments of Wikipedia; Apache-2.0."""

_LABELS = ("toxicity", "toxic")
_MOST_TOKENS = 512
_models: Any = AutoModelForSequenceClassification
_tokenizers: Any = AutoTokenizer


class ClassifierScorer:
    """A scorer that asks a classifier for the probability of one of its labels.

    Attributes:
        label: the label.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, label: str | None = None, batch_size: int = 32
    ) -> None:
        """Take a model of `AutoModelForSequenceClassification` and its tokenizer.

        Args:
            model, tokenizer: on the device where they are to run.
            label: which of its labels means toxic; by default `toxicity` or `toxic`.
            batch_size: texts in a pass.

        Raises:
            InputError: it has no such label.
        """
        self._model, self._tokenizer, self._batch_size = model.eval(), tokenizer, batch_size
        numbers = {str(name): int(each) for each, name in model.config.id2label.items()}
        wanted = _LABELS if label is None else (label,)
        found = [name for name in numbers if name.casefold() in wanted or name == label]
        if not found:
            raise InputError(
                f"the classifier has no label {' or '.join(wanted)}; name one of its labels, "
                f"{', '.join(numbers)}"
            )
        self.label, self._number = found[0], numbers[found[0]]

    @classmethod
    def load(
        cls,
        source: str,
        *,
        label: str | None = None,
        device: str = "cpu",
        progress: Callable[[str], None] = lambda sentence: None,
    ) -> "ClassifierScorer":
        """Load a classifier by the name of its folder or on the hub.

        Args:
            source: the name.
            label: as for `ClassifierScorer`.
            device: cpu, cuda, cuda:1, ..., or auto.
            progress: told of steps that take time.

        Raises:
            InputError: it is not found, its weights are no safetensors, or it has no such label.
        """
        folder = locate(source, progress)
        if not folder.is_dir():
            raise InputError(f"{source!r} is no folder of a classifier; give one, or a hub name")
        try:
            model = _models.from_pretrained(folder, use_safetensors=True, local_files_only=True)
            tokenizer = _tokenizers.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{source!r} is no text classifier ({error}); take another") from None
        return cls(model.to(resolve_device(device)), tokenizer, label=label)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> list[float]:
        """The probability of the label for each text; of longer ones the first 512 tokens."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found: dict[int, float] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            tokens = self._tokenizer(
                [texts[number] for number in batch],
                truncation=True,
                max_length=min(_MOST_TOKENS, self._tokenizer.model_max_length),
                padding=True,
                return_tensors="pt",
            ).to(self._model.device)
            logits_BC = self._model(**tokens).logits.float()
            # Labels that exclude each other share one probability.
            exclusive = self._model.config.problem_type == "single_label_classification"
            scores_BC = logits_BC.softmax(-1) if exclusive else logits_BC.sigmoid()
            found.update(zip(batch, scores_BC[:, self._number].tolist(), strict=True))
        return [found[number] for number in range(len(texts))]


def detoxify(texts: Sequence[str]) -> list[float]:
    """The probability that each text is toxic, by Detoxify's model `original`.

    The first call downloads it from the Hugging Face hub, 438 MB.

    Raises:
        InputError: the hub cannot be reached, or has it no more.
    """
    return _detoxify()(texts)


@cache
def _detoxify() -> ClassifierScorer:
    return ClassifierScorer.load(DETOXIFY)
