"""How fast does the engine generate: steered or not, one request or many, alike or different?

    python benchmarks/serving_speed.py [--model smollm2-135m] [--tokens 48] [--rounds 5]

All cases take turns, round by round, so that what else the machine does falls on all of them. The
autoencoder is a random one: what steering costs does not depend on what its features mean.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.autoencoder import SparseAutoencoder
from sparsteer.sae.config import TopKConfig
from sparsteer.sae.language_model.model import LanguageModel
from sparsteer.steering.config import Sampling
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import SteeredFeature
from sparsteer.steering.serving import Engine, GenerationRequest
from sparsteer.steering.texts import prompt_tokens

N_TOGETHER = 16
N_LATENTS = 16_384
PROMPT = "The old town hall stood at the corner of the market square, and every morning"


@dataclass(frozen=True)
class ServingSpeed:
    """Medians over the rounds, and ratios of what took turns."""

    model: str
    threads: int
    tokens_of_a_text: int
    rounds: int
    tokens_per_second: dict[str, float]
    """By case."""
    steering_costs: dict[str, float]
    """Fraction of the unsteered tokens a second that steering takes away; medians of the rounds'
    own ratios."""
    together_over_alone: float
    """Tokens a second of 16 different interventions together, by those of one after another."""
    first_token_ms: float
    """From submitting a request to its first token."""
    first_pass_ms: float
    """The model's own pass over the prompt."""

    @property
    def lines(self) -> list[str]:
        """For a person."""
        found = [
            f"{name:<44} {rate:8.1f} tokens/s" for name, rate in self.tokens_per_second.items()
        ]
        found += [
            f"steering costs, {name:<28} {cost:8.1%}" for name, cost in self.steering_costs.items()
        ]
        found.append(
            f"{N_TOGETHER} different together, over one after another "
            f"{self.together_over_alone:5.1f} x"
        )
        found.append(
            f"first token after {self.first_token_ms:.0f} ms, the model's own pass "
            f"{self.first_pass_ms:.0f} ms"
        )
        return found


def serving_speed(model: LanguageModel, *, tokens: int, rounds: int) -> ServingSpeed:
    """Measure all cases in turns.

    Args:
        model: the language model.
        tokens: of each text.
        rounds: how often each case is measured; after one more that warms up.
    """
    sae = SparseAutoencoder(TopKConfig(model.d_model, N_LATENTS, 32), seed=0)
    site = model.site()
    with Engine(model, sae, site=site, slots=N_TOGETHER) as engine:
        prompt = tuple(prompt_tokens(engine.model, PROMPT))
        acts_LD = site.read(torch.tensor([prompt]))[0, 2:]
        unit = 0.05 * float(row_norms(acts_LD).mean())

        def requests(n: int, tier: str | None, *, same: bool = False) -> list[GenerationRequest]:
            return [
                GenerationRequest(
                    prompt=prompt,
                    sampling=Sampling(max_new_tokens=tokens, temperature=0.8, seed=number),
                    intervention=None
                    if tier is None
                    else Intervention.of_features(
                        site=site.name,
                        tier=tier,
                        features=(
                            SteeredFeature(
                                index=7 if same else 100 * number + 7, max_activation=unit
                            ),
                        ),
                    ),
                )
                for number in range(n)
            ]

        def together(asked: Sequence[GenerationRequest]) -> float:
            """Tokens a second."""
            before, begun = engine.state.tokens_generated, time.perf_counter()
            streams = [engine.submit(request) for request in asked]
            for stream in streams:
                for _ in stream:
                    pass
            return (engine.state.tokens_generated - before) / (time.perf_counter() - begun)

        def one_by_one(asked: Sequence[GenerationRequest]) -> float:
            return len(asked) / sum(1 / together([request]) for request in asked)

        many = N_TOGETHER
        cases: dict[str, Callable[[], float]] = {
            "1 request, unsteered": lambda: together(requests(1, None)),
            "1 request, steered": lambda: together(requests(1, "constant")),
            "1 request, gated per token": lambda: together(requests(1, "per_token")),
            "16 requests, unsteered": lambda: together(requests(many, None)),
            "16 requests, one intervention": lambda: together(
                requests(many, "constant", same=True)
            ),
            "16 requests, 16 interventions": lambda: together(requests(many, "constant")),
            "16 requests, 16 gated per token": lambda: together(requests(many, "per_token")),
            "16 interventions, one after another": lambda: one_by_one(requests(many, "constant")),
        }
        first: list[float] = []
        own: list[float] = []
        rates: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(rounds + 1):
            for name, case in cases.items():
                rates[name].append(case())
            for _ in range(3):
                first.append(_first_token(engine, requests(1, "constant")[0]))
                own.append(_own_pass(engine, prompt))
            if number == 0:
                first, own, rates = [], [], {name: [] for name in cases}

    def cost(name: str, base: str) -> float:
        return 1 - statistics.median(a / b for a, b in zip(rates[name], rates[base], strict=True))

    names = list(cases)
    return ServingSpeed(
        model=model.name,
        threads=torch.get_num_threads(),
        tokens_of_a_text=tokens,
        rounds=rounds,
        tokens_per_second={name: statistics.median(found) for name, found in rates.items()},
        steering_costs={
            name: cost(name, names[0] if name.startswith("1 ") else names[3])
            for name in (*names[1:3], *names[4:7])
        },
        together_over_alone=1 - cost(names[5], names[7]),
        first_token_ms=1e3 * statistics.median(first),
        first_pass_ms=1e3 * statistics.median(own),
    )


def _first_token(engine: Engine, request: GenerationRequest) -> float:
    begun = time.perf_counter()
    stream = engine.submit(request)
    next(iter(stream))
    seconds = time.perf_counter() - begun
    stream.cancel()
    for _ in stream:
        pass
    return seconds


def _own_pass(engine: Engine, prompt: Sequence[int]) -> float:
    begun = time.perf_counter()
    engine.model.logits(torch.tensor([list(prompt)]))
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    model = LanguageModel.load(given.model, device="auto")
    found = serving_speed(model, tokens=given.tokens, rounds=given.rounds)
    print(json.dumps(asdict(found)) if given.json else "\n".join(found.lines))


if __name__ == "__main__":
    main()
