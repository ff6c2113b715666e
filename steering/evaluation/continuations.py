"""Several continuations of each prompt, the same random numbers whatever steers the model."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from ...sae.common.errors import InputError
from ...sae.common.validation import require_positive_integer
from ...sae.language_model.model import LanguageModel
from ..config import Sampling
from ..generation import Continuation, generate
from .reading import Steered


def sample_continuations(
    model: LanguageModel,
    prompts: Sequence[str],
    sampling: Sampling,
    n: int,
    steered: Steered = nullcontext,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Continuation]]:
    """Continue each prompt n times.

    The i-th continuation of a prompt draws its random numbers from seed + i, so that it is the same
    one however many there are and whatever else is continued, and ways to steer compare in pairs.
    What `Continuation` says of steered positions is not known here; `fire_rate` measures it.

    Args:
        model: the language model.
        prompts: beginnings of texts.
        sampling: how tokens are chosen; its temperature must be above 0 for more than one. Where
            prompts come in several calls, give max_new_tokens, which the longest prompt of a call
            limits otherwise.
        n: continuations of each prompt.
        steered: how the model is steered.
        progress: told how many of the n are done, and n.

    Returns:
        For each prompt its n continuations.

    Raises:
        InputError: n is not positive, or above 1 at temperature 0, and as `generate`.
        TooStrong: the steered model's logits are no numbers.
    """
    require_positive_integer("n", n)
    if n > 1 and sampling.temperature == 0:
        raise InputError(
            f"n is {n}, but at temperature 0 all continuations are one; give a temperature, or one "
            "continuation",
            field="n",
        )
    rounds: list[list[Continuation]] = []
    for number in range(n):
        own = dataclasses.replace(sampling, seed=sampling.seed + number)
        with steered():
            rounds.append(generate(model, prompts, own))
        progress(number + 1, n)
    return [list(of_prompt) for of_prompt in zip(*rounds, strict=True)]
