"""Labels by a language model in this process: without a server, and as good as the model is.

A base model is shown four solved cases and continues the fifth, of the marked words alone: small
models go astray with more. Whether a label fits a text is
read from the logits of " yes" and " no" behind a question, less their difference behind the same
question about an empty text, since models lean to one of them whatever is asked.
"""

from collections.abc import Sequence

import torch

from ...sae.common.errors import InputError
from ...sae.language_model.model import LanguageModel
from ..config import Sampling
from ..encoding import first_tokens
from ..generation import generate
from .answers import BadAnswer, label_of
from .config import LOCAL
from .evidence import Evidence, peak_text, short_text
from .labeler import Usage

_CASES = (
    ("We flew to << Paris>> in May", ("Paris", "Rome", "London", "Oslo"), "names of cities"),
    ("and it was << raining>> all day", ("raining", "storm", "Snow", "wind"), "words for weather"),
    ("Later she << said>> that it", ("said", "told", "asked", "says"), "verbs of speaking"),
    ("there were << three>> of them", ("three", "50", "dozen", "two"), "numbers"),
)
"""A text, words that are marked in such texts, and what they are."""
_ROOM = 32
"""Tokens that are left for the answer and the question around a text."""


class LocalLabeler:
    """A `Labeler` that asks a language model in this process.

    Attributes:
        name: of the model.  address: `local`.  usage: what was asked so far.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.name, self.address = model.name, LOCAL
        self.usage = Usage()
        self._yes, self._no = (self._one_token(word) for word in (" yes", " no"))

    def label(self, evidence: Evidence) -> str:
        """A label; raises BadAnswer as every `Labeler`."""
        prompt = self._fitting_prompt(evidence)
        sampling = Sampling(max_new_tokens=24, stop=("\n",))
        (continuation,) = generate(self._model, [prompt], sampling)
        self._count(prompt, len(continuation.tokens))
        try:
            return label_of(continuation.text, cut_off=continuation.stopped == "length")
        except BadAnswer as error:
            self.usage.reject(str(error))
            raise

    def fitting(self, label: str, texts: Sequence[str]) -> set[int]:
        """The numbers of the texts that fit."""
        lean = self._leaning(label, "")
        return {n for n, text in enumerate(texts, start=1) if self._leaning(label, text) > lean}

    @torch.no_grad()
    def _leaning(self, label: str, text: str) -> float:
        """How much likelier " yes" is than " no", in logits."""
        question = f'Text: {text}\nDoes the text contain "{label}"? Answer yes or no.\nAnswer:'
        tokens = self._tokens(question, self._model.max_context)
        logits_V = self._model.network(
            torch.tensor([tokens], device=self._model.device), logits_to_keep=1
        )[0, -1]
        self._count(question, 0)
        return float(logits_V[self._yes] - logits_V[self._no])

    def _fitting_prompt(self, evidence: Evidence) -> str:
        """The solved cases and the question, with as many examples as the model has room for."""
        examples = [*evidence.strongest, *evidence.middling]
        text, words = short_text(examples[0]), list(dict.fromkeys(map(peak_text, examples)))
        for cases, most in ((4, 12), (2, 6), (0, 2)):
            solved = [_case(*case, "\n\n") for case in _CASES[:cases]]
            prompt = "".join([*solved, _case(text, words[:most], "", "")])
            if len(self._tokens(prompt, 1 << 20)) + _ROOM <= self._model.max_context:
                return prompt
        raise InputError(
            f"{self.name} holds {self._model.max_context} tokens, too few for an example and a "
            "question; label with another --model"
        )

    def _tokens(self, text: str, most: int) -> list[int]:
        bos = [] if self._model.bos_id is None else [self._model.bos_id]
        return bos + first_tokens(self._model, text, most - len(bos))[0]

    def _one_token(self, word: str) -> int:
        """The first token of a word; of a tokenizer of single characters that of its letter."""
        ids, _ = first_tokens(self._model, word, 2)
        return ids[-1] if len(ids) > 1 else ids[0]

    def _count(self, prompt: str, tokens_out: int) -> None:
        self.usage.requests += 1
        self.usage.tokens_in += len(self._tokens(prompt, 1 << 20))
        self.usage.tokens_out += tokens_out


def _case(text: str, words: Sequence[str], answer: str, end: str) -> str:
    """A case that is solved, or one whose answer is to be written."""
    said = f" {answer}" if answer else ""
    return f"Text: {text}\nWords: {', '.join(words)}\nThe words are:{said}{end}"
