"""What a feature index takes from the language model: the texts of tokens, and what the decoder
directions do to the logits."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder
from ...sae.language_model.model import LanguageModel
from ...sae.language_model.names import named_again
from ...sae.language_model.reloading import load_again, require_same_weights
from ...training.data.cache.reader import ActivationCache
from .config import BuildConfig
from .directions import Best, extreme_logits
from .layout import LENS, NEGATIVE_LOGITS, POSITIVE_LOGITS
from .lens import NONE_GIVEN, jacobian
from .vocabulary import load_tokenizer, special_ids, token_bytes


@dataclass(frozen=True)
class FromModel:
    """What was read."""

    tokens: list[bytes]
    """What each token id stands for."""
    special_ids: list[int]
    best: dict[str, Best] = field(default_factory=dict[str, Best])
    """Tokens of each latent, by the kind of ranking."""
    why_no_lens: str = NONE_GIVEN
    """Why no tokens are ranked by a Jacobian lens, in a sentence; empty if they are."""


def read_language_model(
    sae: SparseAutoencoder,
    cache: ActivationCache,
    site: str,
    config: BuildConfig,
    model: LanguageModel | None,
    say: Callable[[str], None],
) -> FromModel:
    """Read what is asked for; with `config.logits` 0 the tokenizer alone is loaded.

    Args:
        sae: the autoencoder.
        cache: of the language model.
        site: what the autoencoder reads.
        config: what is wanted, and of which model.
        model: the language model if it is loaded already.
        say: sentences for a person.

    Raises:
        InputError: the model is not the cache's, or the lens not the model's.
    """
    made = cache.manifest
    if not config.logits:
        if model is None:
            tokenizer = load_tokenizer(named_again(made.model, config.model, config.cache), say)
        else:
            tokenizer = model.tokenizer
        return FromModel(token_bytes(tokenizer), special_ids(tokenizer))
    otherwise = ", or --logits 0 to use its tokenizer alone"
    if model is None:
        device = str(sae.W_dec.device)
        model = load_again(
            made,
            config.cache,
            given=config.model,
            device=device,
            dtype=config.model_dtype,
            otherwise=otherwise,
            allow_other_weights=config.allow_other_weights,
            say=say,
        )
    else:
        require_same_weights(
            model,
            made,
            config.cache,
            otherwise,
            allow_other_weights=config.allow_other_weights,
            say=say,
        )
    say("finding the positive and negative logits of each latent")
    positive, negative = extreme_logits(model, sae.W_dec, config.logits)
    best = {POSITIVE_LOGITS: positive, NEGATIVE_LOGITS: negative}
    through_lens_FD, why_no_lens = _through_lens(sae, site, config, model)
    if through_lens_FD is not None:
        best[LENS], _ = extreme_logits(model, through_lens_FD, config.logits)
    tokenizer = model.tokenizer
    return FromModel(token_bytes(tokenizer), special_ids(tokenizer), best, why_no_lens)


def _through_lens(
    sae: SparseAutoencoder, site: str, config: BuildConfig, model: LanguageModel
) -> tuple[Float[Tensor, "F D"] | None, str]:
    """Decoder directions as they are on average at the last block, or why there is no lens."""
    if config.lens is None:
        return None, NONE_GIVEN
    if sae.config.transcoder:
        target = None if sae.origin is None else sae.origin.target_site
        if target is None:
            return None, "it is not known which site the transcoder writes to"
        site = target
    matrix_DD, why = jacobian(config.lens, site, d_model=model.d_model, n_layers=model.n_layers)
    return (None if matrix_DD is None else sae.W_dec.detach() @ matrix_DD.to(sae.W_dec).T), why
