"""The stages that use the top-k autoencoder: find features, steer with them, select data."""

import random
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from ...sae.errors import InputError
from ...sae.files import sha256_file
from ..features.layout import FOLDER, MANIFEST
from ..features.picks import FILE
from .config import STEERED, DemoConfig
from .stage import Demo, Result, Stage

N_RANDOM = 3
"""Random features that the steered ones are held against."""
_EXAMPLES = 4
_TOKENS_OF_A_ROW = 64
_TARGET_ROWS, _DRAWS, _RATIO = 5, 5, 0.1


def _weights(demo: Demo) -> str:
    return sha256_file(demo.config.run(STEERED) / "sae" / "sae.safetensors")


def _load(demo: Demo) -> Any:
    from ..loading import load_run

    return load_run(str(demo.config.run(STEERED)), device=demo.config.device, say=demo.say)


# Features that tell toxic prompts from ordinary text.


def _find(demo: Demo) -> Result:
    from ..detox.prompts import prompts_of
    from ..features.build import build_index
    from ..features.hashing import sae_fingerprint
    from ..features.index import FeatureIndex
    from ..features.picks import Pick, Picks
    from ..features.search import find_features

    config, run = demo.config, demo.config.run(STEERED)
    loaded = _load(demo)
    with demo.progress("indexing features", "rows") as update:
        built = build_index(
            config.build_config(),
            model=loaded.model,
            report=lambda done, total, figures: update(done, total, ""),
        )
    toxic = [prompt.text for prompt in prompts_of("tuning")]
    plain = fragments(_texts(config), [len(text.split()) for text in toxic], config.seed)
    demo.say(f"reading {len(toxic):,} toxic prompts and as many fragments of {config.dataset}")
    index = FeatureIndex.of_run(run)
    # A feature that fires nowhere in the cache has no largest activation to measure a push by.
    search = find_features(loaded, toxic, plain, top=index.n_latents, seed=config.seed).to_dict()
    found = [f for f in search.pop("features") if index.max_activation(f["feature"]) > 0]
    found = found[: config.picks]
    if not found:
        raise InputError(
            f"no feature of {run} fires in a tenth of the toxic prompts; train with more "
            "--training-tokens or a larger --k"
        )
    for feature in found:
        feature["max_activation"] = index.max_activation(feature["feature"])
        feature["tokens"] = index.peak_texts(feature["feature"], 8)
    label = "more active in toxic prompts"
    picks = [Pick(feature=f["feature"], label=label, strength=config.strength) for f in found]
    Picks(sae_fingerprint(loaded.sae), tuple(picks)).save(run)
    return {
        **search,
        "features": found,
        "never_fired": built["never_fired"],
        "indexed_rows": built["rows"],
    }


def fragments(texts: Iterable[str], words: Sequence[int], seed: int) -> list[str]:
    """For each number of words, a run of so many from a random place of another text.

    Where there are fewer texts than numbers they come again; a text that is too short is taken
    whole.
    """
    rng = random.Random(seed)
    sources = list(islice((found for text in texts if (found := text.split())), len(words)))
    if not sources:
        raise InputError("the corpus has no text with a word; give another --dataset")
    cut: list[str] = []
    for number, n_words in enumerate(words):
        source = sources[number % len(sources)]
        start = rng.randrange(max(1, len(source) - n_words + 1))
        cut.append(" ".join(source[start : start + n_words]))
    return cut


def _texts(config: DemoConfig) -> Iterable[str]:
    from ...training.corpus import open_corpus

    corpus = open_corpus(config.dataset)
    documents = corpus.documents(seed=config.seed, shuffle_buffer=10_000)
    return (document.text for document in documents)


def _find_key(demo: Demo) -> Result:
    config = demo.config
    return {
        "autoencoder": _weights(demo),
        "activations": demo.result("cache")["fingerprint"],
        "corpus": demo.result("cache")["corpus_fingerprint"],
        "picks": config.picks,
        "strength": config.strength,
        "seed": config.seed,
    }


def _is_found(demo: Demo) -> bool:
    run = demo.config.run(STEERED)
    return (run / FOLDER / MANIFEST).is_file() and (run / FILE).is_file()


# Toxicity under each tier.


def _steer(demo: Demo) -> Result:
    from ..detox.measure import measure_tiers
    from ..detox.prompts import prompts_of
    from ..detox.toxicity import identity_bias
    from ..features.index import FeatureIndex
    from ..intervention import Intervention, SteeredFeature

    config = demo.config
    loaded = _load(demo)
    intervention = Intervention(
        site=loaded.site.name,
        features=tuple(
            SteeredFeature(
                index=found["feature"],
                strength=config.strength,
                max_activation=found["max_activation"],
            )
            for found in demo.result("features")["features"]
        ),
    )
    prompts = [prompt.text for prompt in prompts_of("reporting")[: config.prompts]]
    fired = FeatureIndex.of_run(config.run(STEERED)).statistics["fired"]
    with demo.progress("generating with and without steering", "conditions") as update:
        measured = measure_tiers(
            loaded.model,
            loaded.sae,
            intervention,
            prompts,
            config.sampling(),
            random_candidates=[int(latent) for latent in fired.nonzero()[0]],
            n_random=N_RANDOM,
            report=update,
        )
    for condition in measured.values():
        condition["continuations"] = condition["continuations"][:_EXAMPLES]
    return {
        "prompts": len(prompts),
        "tuning_prompts": len(prompts_of("tuning")),
        "examples": prompts[:_EXAMPLES],
        "conditions": measured,
        "identity_bias": identity_bias(),
    }


def _steer_key(demo: Demo) -> Result:
    config = demo.config
    return {
        "autoencoder": _weights(demo),
        "features": [found["feature"] for found in demo.result("features")["features"]],
        "strength": config.strength,
        "prompts": config.prompts,
        "new_tokens": config.new_tokens,
        "seed": config.seed,
    }


# Instruction rows chosen for a subject.


def _select(demo: Demo) -> Result:
    from ..selection.targets import recover_groups

    config = demo.config
    rows = instruction_rows(config)
    loaded = _load(demo)
    demo.say(f"reading {len(rows):,} instruction rows")
    groups = recover_groups(
        loaded.model,
        loaded.site,
        loaded.sae,
        rows,
        n_targets=_TARGET_ROWS,
        ratio=_RATIO,
        draws=_DRAWS,
        seed=config.seed,
        max_length=_TOKENS_OF_A_ROW,
    )
    return {"groups": groups, "rows": len(rows), "max_length": _TOKENS_OF_A_ROW, "ratio": _RATIO}


def _select_key(demo: Demo) -> Result:
    return {
        "autoencoder": _weights(demo),
        "rows": sha256_file(_instructions_file(demo.config)),
        "seed": demo.config.seed,
    }


def instruction_rows(config: DemoConfig) -> list[dict[str, Any]]:
    """The rows to select from.

    Raises:
        InputError: the file is missing or broken, or too few of its rows are in the group
            `subject`.
    """
    from ..selection.tables import open_rows

    path = _instructions_file(config)
    rows = [dict(row) for row in open_rows(path, "--instructions").rows()]
    groups = [str(row["group"]) for row in rows if row.get("group") is not None]
    if groups.count(config.subject) <= _TARGET_ROWS:
        found = ", ".join(dict.fromkeys(groups)) or "none"
        raise InputError(
            f"subject is {config.subject!r}, but {path} has no more than {_TARGET_ROWS} rows of "
            f"that group; give one of its groups: {found}"
        )
    return rows


def _instructions_file(config: DemoConfig) -> Any:
    from ...sae.fetch import ARTEFACTS, fetch

    return fetch(config.instructions) if config.instructions in ARTEFACTS else config.instructions


APPLICATIONS: tuple[Stage, ...] = (
    Stage(
        name="features",
        title=f"index the {STEERED} features, and find those of toxic prompts",
        run=_find,
        key=_find_key,
        is_there=_is_found,
    ),
    Stage(
        name="steering",
        title="measure toxicity with and without steering",
        run=_steer,
        key=_steer_key,
    ),
    Stage(
        name="selection",
        title="select instruction rows of a subject",
        run=_select,
        key=_select_key,
    ),
)
"""In the order they run, after the autoencoders are trained and evaluated."""
