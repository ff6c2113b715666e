"""What a feature does to the next token when it is amplified: the output score, and the change of
the model's confidence."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from ...kernels.numerics import at_least_float32
from ...sae.common.errors import InputError
from ...sae.common.wording import count, counted
from ...sae.language_model.model import LanguageModel
from ..loading import LoadedRun
from ..texts import prompt_tokens
from .find_config import OUTPUT_PROMPT, Ranking
from .vocabulary import Vocabulary, token_bytes

AMPLIFICATION = 10.0
"""How far a feature is amplified, in multiples of the largest activation at the text's end."""

OWN_TOKENS = 20
"""Tokens that a feature's direction raises most by itself, which the output score looks for."""

_TOKENS_SHOWN = 8


@dataclass(frozen=True)
class OutputEffect:
    """What amplifying a feature at the end of a text does to the next token."""

    score: float
    """The output score: the probability of the likeliest of the feature's own tokens, times 1 less
    its rank as a fraction of the vocabulary. 1 if the model is sure to say one of them."""
    unamplified_score: float
    """The same number without the feature; where it is near `score`, the text itself, and not the
    feature, makes the model say these tokens."""
    confidence_change: float
    """By how much the log-probability of the likeliest token falls, in nats: above 0 the model is
    less sure of the next token than without the feature, below 0 it is surer."""
    own_tokens: tuple[str, ...]
    """The tokens that the feature's direction raises most, the first of those looked for."""
    next_token: str
    """The likeliest token with the feature amplified."""

    def strength(self, rank_by: Ranking) -> float:
        """By what features are ranked: the output score, or the size of the change of
        confidence."""
        return self.score if rank_by == "output_score" else abs(self.confidence_change)


@torch.no_grad()
def measure_outputs(
    loaded: LoadedRun,
    features: Sequence[int],
    *,
    prompt: str = OUTPUT_PROMPT,
    amplification: float = AMPLIFICATION,
    n_tokens: int = OWN_TOKENS,
    n_confident: int = 1,
    batch_size: int = 16,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[OutputEffect]:
    """Amplify each feature at the last token of a text, and look at the next token.

    The feature's own tokens T are those with the largest logits when its decoder row alone goes
    through the last norm and the unembedding. At the text's last token h becomes
    h + a * W_dec[f] / input_scale, with a = `amplification` times the largest activation of any
    latent there, so that what the autoencoder does not explain stays as it is. With the next-token
    probabilities p that follow, the output score is
    max(p[t] for t in T) * (1 - min(rank[t] for t in T) / V), ranks from 0, as in arXiv 2505.20063
    and its code. The change of confidence is C(p) - C(p of the text as it is), where C is the
    negative mean log-probability of the `n_confident` likeliest tokens (arXiv 2510.03659, with 10
    and 1 as there). That paper scales the feature's own code, which is 0 on this text for most
    features; here the feature is amplified as for the output score.

    Args:
        loaded: language model, site and autoencoder.
        features: numbers of latents.
        prompt: the text, read after the model's BOS token.
        amplification, n_tokens, n_confident: see above.
        batch_size: features in one forward pass.
        say: told beforehand what it costs.

    Raises:
        InputError: no latent fires at the end of the text, the autoencoder is a transcoder, or the
            text is empty or longer than the model's context.
    """
    model, site, sae = loaded
    if sae.config.transcoder:
        raise InputError(
            "the output of a feature is measured at the site that it is read from, and a "
            "transcoder writes to another one; leave --outputs out"
        )
    tokens_L = torch.tensor(prompt_tokens(model, prompt))
    chunks = [list(features[i : i + batch_size]) for i in range(0, len(features), batch_size)]
    say(
        f"measuring what {counted(len(features), 'feature')} do to the next token: "
        f"{count(2 * len(chunks) + 2)} forward passes of at most "
        f"{counted(min(batch_size, len(features)), 'row')} of {counted(len(tokens_L), 'token')}"
    )
    h_1D = site.read(tokens_L[None])[:, -1].to(sae.W_dec.device)
    largest = float(sae.encode(h_1D).values.max())
    if not largest > 0:
        raise InputError(
            f"no latent fires at the end of {prompt!r}, so nothing says how far to amplify; give "
            "another text with --output-prompt",
            field="output_prompt",
        )
    factor_11 = amplification * largest / sae.decoder_scale
    if sae.config.normalize_activations != "none":
        factor_11 = factor_11 * sae.normalized(h_1D)[1]
    base_V = _next_token(model, tokens_L, site.name, h_1D.new_zeros(h_1D.shape))[0]
    texts = Vocabulary(token_bytes(model.tokenizer))
    effects: list[OutputEffect] = []
    for chunk in chunks:
        rows_BD = sae.W_dec[chunk]
        own_BT = _lens(model, rows_BD, int(tokens_L[-1]), n_tokens)
        steered_BV = _next_token(model, tokens_L, site.name, rows_BD * factor_11)
        for own_T, log_p_V in zip(own_BT, steered_BV, strict=True):
            shown = [int(token) for token in own_T[:_TOKENS_SHOWN]]
            effects.append(
                OutputEffect(
                    score=output_score(log_p_V, own_T),
                    unamplified_score=output_score(base_V, own_T),
                    confidence_change=_unsure(log_p_V, n_confident) - _unsure(base_V, n_confident),
                    own_tokens=tuple("".join(texts.texts([token])) for token in shown),
                    next_token="".join(texts.texts([int(log_p_V.argmax())])),
                )
            )
    return effects


def output_score(log_p_V: Float[Tensor, "V"], own_T: Int[Tensor, "T"]) -> float:
    """max p over the tokens, times 1 less the smallest of their ranks (from 0) over V."""
    likeliest = log_p_V[own_T].max()
    rank = int((log_p_V > likeliest).sum())
    return math.exp(float(likeliest)) * (1 - rank / len(log_p_V))


def _unsure(log_p_V: Float[Tensor, "V"], n_confident: int) -> float:
    """The negative mean log-probability of the likeliest tokens."""
    return -float(log_p_V.topk(min(n_confident, len(log_p_V))).values.mean())


def _next_token(
    model: LanguageModel, tokens_L: Int[Tensor, "L"], site: str, shift_BD: Float[Tensor, "B D"]
) -> Float[Tensor, "B V"]:
    """Log-probabilities of the next token after a text, with a vector for each row added to the
    activation of its last token; on the CPU, float32 at least."""

    def add(h_BLD: Tensor) -> Tensor:
        changed_BLD = h_BLD.clone()
        changed_BLD[:, -1] += shift_BD.to(h_BLD)
        return changed_BLD

    tokens_BL = repeat(tokens_L, "l -> b l", b=len(shift_BD))
    with model.site(site).write(add):
        hidden_BLD, head = model.before_head(tokens_BL)
    logits_BV = head(hidden_BLD[:, -1:])[:, 0]
    return logits_BV.to(at_least_float32(logits_BV.dtype)).log_softmax(-1).cpu()


def _lens(
    model: LanguageModel, rows_BD: Float[Tensor, "B D"], token: int, n_tokens: int
) -> Int[Tensor, "B T"]:
    """The tokens with the largest logits where the last layer's output is each row, brought to root
    mean square 1; on the CPU. `token` is any that can be read."""
    unit_BD = torch.nn.functional.normalize(rows_BD, dim=-1) * rows_BD.shape[-1] ** 0.5
    last = model.site(f"blocks.{model.n_layers - 1}.hook_resid_post")
    tokens_B1 = torch.full((len(rows_BD), 1), token)
    with last.write(lambda h_B1D: rearrange(unit_BD, "b d -> b 1 d").to(h_B1D)):
        logits_BV = model.logits(tokens_B1)[:, 0]
    return logits_BV.topk(min(n_tokens, logits_BV.shape[-1]), dim=-1).indices.cpu()
