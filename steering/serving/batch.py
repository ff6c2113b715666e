"""Texts of several requests that are generated in one forward pass a token."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...sae.language_model.model import LanguageModel
from ..decoding import DecodingRows
from ..generation import are_numbers, not_numbers
from ..interventions.row_steering import RowSteering
from ..sampling import RowSampler
from .texts import RunningText


class TextBatch:
    """Texts with their rows and their sampler; a text leaves when it is done."""

    def __init__(
        self,
        model: LanguageModel,
        texts: Sequence[RunningText],
        steering: RowSteering,
    ) -> None:
        """Take texts of which none has a token yet, and what steers them."""
        self._model = model
        self.texts = list(texts)
        self.is_reading = False
        """Whether the step ended within the model's pass, before any text was told of it."""
        prompts = [text.prompt for text in texts]
        self._rows = DecodingRows(model, prompts, steering)
        self._sampler = RowSampler([text.sampling for text in texts], prompts, model.device)

    def step(self) -> int:
        """Add a token to each text, and say how many were chosen."""
        self.is_reading = True
        logits_BV = self._rows.read()
        self.is_reading = False
        numbers_B = are_numbers(logits_BV)
        chosen_B = self._sampler.choose(torch.where(numbers_B[:, None], logits_BV, 0.0))
        before = sum(text.n_tokens for text in self.texts)
        self._tell(logits_BV, torch.where(numbers_B, chosen_B, -1))
        n_chosen = sum(text.n_tokens for text in self.texts) - before
        self._rows.append(chosen_B)
        going = [row for row, text in enumerate(self.texts) if not text.done]
        if len(going) < len(self.texts):
            self.texts = [self.texts[row] for row in going]
            if going:
                self._rows.keep(going)
                self._sampler.keep(going)
        return n_chosen

    def join(self, other: "TextBatch") -> None:
        """Take the other's texts, which are between tokens as these are. Where that fails, the
        batch is as it was."""
        self._rows.join(other._rows)
        self._sampler.join(other._sampler)
        self.texts += other.texts

    def newest(self) -> list[RunningText]:
        """The texts of the request that joined last."""
        return [text for text in self.texts if text.stream is self.texts[-1].stream]

    def leave_out(self, texts: Sequence[RunningText]) -> None:
        """Go on without some, after a step that ended within the model's pass."""
        going = [row for row, text in enumerate(self.texts) if text not in texts]
        if going:
            self._rows.keep_unread(going)
            self._sampler.keep(going)
        self.texts = [self.texts[row] for row in going]

    def _tell(
        self,
        logits_BV: Float[Tensor, "B V"],
        chosen_B: Int[Tensor, "B"],
    ) -> None:
        """Give each text its token, or what went wrong with it; -1 where the logits are no
        numbers."""
        steering = self._rows.steering
        logprobs = self._logprobs(logits_BV, chosen_B)
        tokens = list(map(int, chosen_B.cpu()))
        steered_B = self._rows.steered_BT[:, -1].cpu() if steering.activations else None
        for row, text in enumerate(self.texts):
            if row in steering.errors:
                text.fail(steering.errors[row])
                continue
            if steered_B is not None and row in steering.activations:
                acts = tuple(map(float, steering.activations[row].cpu()))
                text.read(acts, bool(steered_B[row]))
            if text.ended:
                continue
            if tokens[row] < 0:
                text.fail(not_numbers(self._model, text.stream.request.intervention))
                continue
            text.choose(tokens[row], *logprobs.get(row, (None, ())))
        for text in self.texts:
            text.end_if_failed()

    def _logprobs(
        self, logits_BV: Float[Tensor, "B V"], chosen_B: Int[Tensor, "B"]
    ) -> dict[int, tuple[float, tuple[tuple[int, float], ...]]]:
        """Of the rows that ask for it, the log-probability of the chosen token and of the likeliest
        ones."""
        asked = {
            row: text.stream.request.logprobs
            for row, text in enumerate(self.texts)
            if text.stream.request.logprobs is not None
        }
        if not asked:
            return {}
        rows = list(asked)
        most = min(max(n or 0 for n in asked.values()), logits_BV.shape[1])
        logprobs_RV = logits_BV[rows].double().log_softmax(dim=-1)
        chosen_R = logprobs_RV.gather(1, chosen_B[rows, None].clamp(min=0))[:, 0].cpu()
        top_RK = logprobs_RV.topk(most)
        values_RK, ids_RK = top_RK.values.cpu(), top_RK.indices.cpu()
        return {
            row: (
                float(chosen_R[place]),
                tuple(
                    (int(ids_RK[place, rank]), float(values_RK[place, rank]))
                    for rank in range(min(asked[row] or 0, most))
                ),
            )
            for place, row in enumerate(rows)
        }
