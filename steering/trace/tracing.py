"""Whether steering removes what a model knows of a concept, or keeps it from being said.

Steering changes no parameter, so what holds the concept is still there; the question is whether the
model still computes it. It is asked four ways, each beside a needle, which changes the concept's
own parameters: are answers about the concept changed, and others not; do other ways to ask bring
them back; do its neurons still write the concept; and do the layers, read by the logit lens, still
favor its words. After ConceptVectors (Hong et al., Intrinsic Test of Unlearning Using Parametric
Knowledge Traces, arXiv 2406.11614), whose own measures compare parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...kernels.numerics import row_norms
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ...sae.common.files import other_content, write_json
from ...sae.common.text import visible
from ...sae.common.wording import counted
from ...sae.language_model.model import LanguageModel
from ..features.text_lists import read_text_list
from ..features.vocabulary import Vocabulary, token_bytes
from ..fitting.saving import require_fitted_to
from ..interventions.intervention import Intervention
from ..interventions.prepared import PreparedIntervention
from ..loading import load_for_intervention
from .answers import CONCEPT, REMINDED, RESTATED, UNRELATED, Questions, asked
from .arms import trace_arms
from .conditions import conditions
from .config import TraceConfig
from .directions import concept_directions
from .lens import LogitLens, overlap, tokens_of_words
from .value_vectors import (
    ValueVector,
    chance_cosine,
    down_projections,
    nearest_value_vectors,
)

_PROJECTED = 200
"""Tokens of a vocabulary projection that are compared, as in ConceptVectors."""

_SHOWN = 8


def trace(config: TraceConfig, *, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Load what the settings name, and ask.

    Args:
        config: the settings.
        say: told what takes time.

    Returns:
        As `trace_of`, with `intervention`, `run`, `model` and `out`; what is written to `out`, if
        that is given.

    Raises:
        InputError: something is missing or does not fit.
    """
    if config.out is not None and Path(config.out).exists() and not config.force:
        raise other_content(Path(config.out))
    intervention = Intervention.load(config.intervention)
    texts = _texts(config)
    model, sae = load_for_intervention(
        intervention,
        config.intervention,
        run=config.run,
        model=config.model,
        model_dtype=config.model_dtype,
        allow_other_weights=config.allow_other_weights,
        device=config.device,
        say=say,
    )
    if not config.allow_other_weights:
        require_fitted_to(config.intervention, model)
    found = {
        "intervention": intervention.to_dict(),
        "run": config.run,
        "model": model.name,
        **trace_of(model, sae, intervention, texts, config, say=say),
        "out": config.out,
    }
    if config.out is not None:
        write_json(config.out, found)
    return found


def trace_of(
    model: LanguageModel,
    sae: SparseAutoencoder | None,
    intervention: Intervention,
    texts: Mapping[str, Sequence[str]],
    config: TraceConfig,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Trace a concept in a model under an intervention.

    Args:
        model: the language model; it is run without TransformerLens' bridge.
        sae: the autoencoder of the intervention's features, if it has any.
        intervention: what steers.
        texts: questions by their kind, `concept` and `unrelated` at least.
        config: the settings; files and models that it names are not read.
        say: told what takes time.

    Returns:
        Plain values: `concept_tokens`; `value_vectors`, the nearest first, each with layer, neuron,
        cosine, overlap, tokens and whether it lies `behind` the steering; `chance_cosine`;
        `conditions` (see `conditions`); `answers`, one for each question; and `cautions`.

    Raises:
        InputError: the intervention does not fit the model, or changes nothing; the model has no
            key-value cache that works, or MLPs that cannot be told apart.
        TooStrong: the steered model's logits are no numbers.
    """
    model = model.without_bridge()
    if not model.kv_cache_works:
        raise InputError(
            f"{model.name} has no key-value cache that works, and answers are read with one; take "
            "another language model"
        )
    PreparedIntervention.of(intervention, model, sae)  # which checks that it fits
    projections, lens = down_projections(model), LogitLens(model)
    say(f"asking {model.name} {counted(sum(map(len, texts.values())), 'question')}")
    untouched = trace_arms(model, intervention, sae, projections, [], config)[0].steered
    questions = {
        kind: asked(
            model,
            kind,
            own,
            untouched,
            chat=config.chat,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
        )
        for kind, own in texts.items()
    }
    _require_answers(questions)
    directions_KD = concept_directions(
        model,
        intervention,
        sae,
        questions[CONCEPT].rows,
        questions[UNRELATED].rows,
        lambda: intervention.apply(model, sae),
    )
    vectors = nearest_value_vectors(projections, directions_KD, config.value_vectors)
    tokens = tokens_of_words(model, config.words)
    top_KT = lens.top_tokens(directions_KD, max(_PROJECTED, config.n_words))
    if not config.words:
        each = -(-config.n_words // len(top_KT))
        tokens = list(dict.fromkeys(map(int, top_KT[:, :each].flatten())))
    vocabulary = Vocabulary(token_bytes(model.tokenizer))
    first = _first_steered_mlp(model, intervention)
    rows_VD = torch.stack([projections[v.layer].rows_FD[v.neuron].double().cpu() for v in vectors])
    # A vector against the direction writes the concept where its neuron is below 0.
    signs_V1 = torch.tensor([[-1.0 if vector.cosine < 0 else 1.0] for vector in vectors])
    own_VT = lens.top_tokens(signs_V1 * rows_VD, _PROJECTED)
    n_pairs = sum(len(each.rows_FD) for each in projections) * len(directions_KD)
    chance = chance_cosine(n_pairs, model.d_model)
    found = conditions(
        model,
        questions,
        trace_arms(model, intervention, sae, projections, vectors, config),
        projections=projections,
        vectors=vectors,
        norms_V=row_norms(rows_VD),
        behind_V=torch.tensor([vector.layer >= first for vector in vectors]),
        lens=lens,
        tokens_T=torch.tensor(tokens),
        batch_size=config.batch_size,
        max_new_tokens=config.max_new_tokens,
        say=say,
    )
    return {
        "needle": config.needle,
        "noise": config.noise if config.needle == "noise" else None,
        "concept_tokens": [visible("".join(vocabulary.texts([token]))) for token in tokens],
        "value_vectors": [
            {
                "layer": vector.layer,
                "neuron": vector.neuron,
                "cosine": vector.cosine,
                "overlap": max(overlap(list(map(int, own_T)), list(map(int, t))) for t in top_KT),
                "behind": vector.layer >= first,
                "tokens": [visible("".join(vocabulary.texts([int(t)]))) for t in own_T[:_SHOWN]],
            }
            for vector, own_T in zip(vectors, own_VT, strict=True)
        ],
        "chance_cosine": chance,
        **found,
        "cautions": _cautions(questions, vectors, chance),
    }


def _first_steered_mlp(model: LanguageModel, intervention: Intervention) -> int:
    """The first layer whose MLP reads what the intervention has changed."""
    sites = [model.site(name) for name in intervention.sites]
    return min(
        site.layer + site.name.endswith(("hook_mlp_out", "hook_resid_post")) for site in sites
    )


def _texts(config: TraceConfig) -> dict[str, list[str]]:
    """The questions by their kind."""
    files = {CONCEPT: config.concept, UNRELATED: config.unrelated, RESTATED: config.restated}
    texts = {
        kind: read_text_list(path, config.text_field, what=f"--{kind}", prompts=True)[
            : config.limit
        ]
        for kind, path in files.items()
        if path is not None
    }
    if config.reminders is not None:
        reminders = "\n\n".join(read_text_list(config.reminders, what="--reminders"))
        texts[REMINDED] = [f"{reminders}\n\n{question}" for question in texts[CONCEPT]]
    return texts


def _require_answers(questions: Mapping[str, Questions]) -> None:
    """Raise an InputError unless the untouched model answers some question of each kind."""
    for kind, own in questions.items():
        if not any(own.answer_tokens):
            raise InputError(
                f"the untouched model answers none of the {kind} questions: it ends the text at "
                "once; ask otherwise, or with --chat"
            )


def _cautions(
    questions: Mapping[str, Questions], vectors: Sequence[ValueVector], chance: float
) -> list[str]:
    """What a reader of the figures must know."""
    found = [
        f"the {kind} questions are {len(own.texts)}, too few to say much; ask at least ten"
        for kind, own in questions.items()
        if len(own.texts) < 10
    ]
    found += [
        f"{counted(silent, 'question')} of the {kind} ones had no answer, and count for the texts "
        "alone"
        for kind, own in questions.items()
        if (silent := sum(not tokens for tokens in own.answer_tokens))
    ]
    nearest = abs(vectors[0].cosine)
    if nearest < 1.2 * chance:
        found.append(
            f"the nearest value vector has a cosine of {nearest:.2f}, and the nearest of as many "
            f"random vectors would have about {chance:.2f}: these may not be the concept's, so the "
            "needle and the neurons say little"
        )
    return found
