"""The stages that use an autoencoder: find features, steer with them, select data."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ...sae.common.errors import InputError
from ...sae.common.files import nearest, sha256_file
from ...training.data.settings import to_plain
from .config import MOST_PICKS, STEERED, DemoConfig
from .stage import Demo, Result, Stage, settings_of

N_RANDOM = 3
"""Random features that the steered ones are held against."""
_EXAMPLES = 4
_TOKENS_BEFORE = 12
_TOKENS_OF_A_ROW = 64
_TARGET_ROWS, _DRAWS, _RATIO = 5, 5, 0.1


def _weights(demo: Demo) -> str:
    from ...sae.autoencoder import SparseAutoencoder
    from ...sae.fingerprint import sae_fingerprint

    return sae_fingerprint(SparseAutoencoder.load(demo.config.steered))


def _load(demo: Demo) -> Any:
    from ...steering.loading import load_run

    return load_run(demo.config.steered, device=demo.config.device, say=demo.say)


def _index_of(demo: Demo) -> Any:
    from ...steering.features.index import FeatureIndex

    return FeatureIndex.of_run(demo.config.steered)


# The feature index, and the features that tell toxic prompts from ordinary text.


def _index(demo: Demo) -> Result:
    from ...steering.features.build import build_index

    with demo.progress("indexing features", "rows") as update:
        return build_index(
            demo.config.build_config(),
            say=demo.say,
            report=lambda done, total, figures: update(done, total, ""),
        )


def _index_key(demo: Demo) -> Result:
    return {
        **settings_of(demo.config.build_config()),
        "autoencoder": _weights(demo),
        "activations": demo.result("cache")["fingerprint"],
    }


def _is_indexed(demo: Demo) -> bool:
    try:
        _index_of(demo).feature(0)
    except InputError:
        return False  # missing or damaged: it is built again
    return True


def _find(demo: Demo) -> Result:
    from ...steering.detox.fragments import fragments
    from ...steering.detox.prompts import prompts_of
    from ...steering.features.search import find_features

    config, loaded, index = demo.config, _load(demo), _index_of(demo)
    toxic = [prompt.text for prompt in prompts_of("tuning")]
    plain = fragments(_texts(config), [len(text.split()) for text in toxic], config.seed)
    demo.say(f"reading {len(toxic):,} toxic prompts and as many fragments of {config.dataset}")
    search = find_features(loaded, toxic, plain, top=index.n_latents, seed=config.seed).to_dict()
    # A feature that fires nowhere in the index has no largest activation to measure a push by.
    found = [f for f in search.pop("features") if index.max_activation(f["feature"]) > 0]
    if not found:
        raise InputError(
            f"no feature of {config.steered} fires in a tenth of the toxic prompts; "
            + (
                "train with more --training-tokens or a larger --k"
                if config.steers_own
                else "give another --dictionary"
            )
        )
    found = found[:MOST_PICKS]
    for feature in found:
        feature["max_activation"] = index.max_activation(feature["feature"])
        feature["tokens"] = index.peak_texts(feature["feature"], 8)
        feature["examples"] = [
            _window(example) for example in index.feature(feature["feature"]).top[:_EXAMPLES]
        ]
    return {**search, "features": found}


def _window(example: Any) -> Result:
    """An example's peak token, and the text around it."""
    first = max(0, example.peak - _TOKENS_BEFORE)
    return {
        "before": "".join(example.texts[first : example.peak]),
        "peak": example.texts[example.peak],
        "after": "".join(example.texts[example.peak + 1 :]),
    }


def _texts(config: DemoConfig) -> Iterable[str]:
    from ...training.data.corpus import open_corpus

    corpus = open_corpus(config.dataset)
    documents = corpus.documents(seed=config.seed, shuffle_buffer=10_000)
    return (document.text for document in documents)


def _find_key(demo: Demo) -> Result:
    return {
        "autoencoder": _weights(demo),
        "activations": demo.result("cache")["fingerprint"],
        "corpus": demo.result("cache")["corpus_fingerprint"],
        "most": MOST_PICKS,
        "seed": demo.config.seed,
    }


def picked_features(config: DemoConfig, stage: Result) -> list[dict[str, Any]]:
    """Those of the features found that are steered with."""
    return stage["features"][: config.picks]


# Toxicity under each tier.


def _steer(demo: Demo) -> Result:
    from ...sae.fingerprint import sae_fingerprint
    from ...steering.detox.measure import RANDOM_FEATURE, measure_tiers, paired_difference
    from ...steering.detox.prompts import prompts_of
    from ...steering.detox.toxicity import identity_bias
    from ...steering.features.picks import Pick, Picks
    from ...steering.interventions.intervention import Intervention
    from ...steering.interventions.spec import SteeredFeature

    config = demo.config
    loaded = _load(demo)
    picked = picked_features(config, demo.result("features"))
    label = "more active in toxic prompts"
    picks = [Pick(feature=f["feature"], label=label, strength=config.strength) for f in picked]
    Picks(sae_fingerprint(loaded.sae), tuple(picks)).save(config.picks_file)
    intervention = Intervention.of_features(
        site=loaded.site.name,
        features=tuple(
            SteeredFeature(
                index=found["feature"],
                strength=config.strength,
                max_activation=found["max_activation"],
            )
            for found in picked
        ),
    )
    prompts = [prompt.text for prompt in prompts_of("reporting")[: config.prompts]]
    fired = _index_of(demo).statistics["fired"]
    with demo.progress("generating with and without steering", "conditions") as update:
        measured = measure_tiers(
            loaded.model,
            loaded.sae,
            intervention,
            prompts,
            config.sampling(),
            random_candidates=[int(latent) for latent in fired.nonzero()[0]],
            n_random=N_RANDOM,
            scorer=config.scorer,
            report=update,
        )
    randoms = [found["scores"] for name, found in measured.items() if RANDOM_FEATURE in name]
    random_means = [sum(scores) / N_RANDOM for scores in zip(*randoms, strict=True)]
    difference, error = paired_difference(measured["constant"]["scores"], random_means)
    for condition in measured.values():
        del condition["scores"]
        condition["continuations"] = condition["continuations"][:_EXAMPLES]
    return {
        "prompts": len(prompts),
        "tuning_prompts": len(prompts_of("tuning")),
        "examples": prompts[:_EXAMPLES],
        "conditions": measured,
        "against_random": {"difference": difference, "standard_error": error},
        "identity_bias": identity_bias(config.scorer),
    }


def _steer_key(demo: Demo) -> Result:
    config = demo.config
    picked = picked_features(config, demo.result("features"))
    return {
        "autoencoder": _weights(demo),
        "features": [found["feature"] for found in picked],
        "strength": config.strength,
        "prompts": config.prompts,
        "sampling": to_plain(config.sampling()),
        "random": N_RANDOM,
        **({} if config.scorer == DemoConfig.scorer else {"scorer": config.scorer}),
    }


# Instruction rows chosen for a subject.


def _select(demo: Demo) -> Result:
    from ...steering.encoding import read_limit
    from ...steering.selection.targets import retrieval_precision

    config = demo.config
    rows = instruction_rows(config)
    loaded = _load(demo)
    max_length = read_limit(loaded.model, None, _TOKENS_OF_A_ROW)
    demo.say(f"reading {len(rows):,} instruction rows")
    groups = retrieval_precision(
        loaded.model,
        loaded.site,
        loaded.sae,
        rows,
        n_targets=_TARGET_ROWS,
        ratio=_RATIO,
        draws=_DRAWS,
        seed=config.seed,
        max_length=max_length,
    )
    return {"groups": groups, "rows": len(rows), "max_length": max_length, "ratio": _RATIO}


def _select_key(demo: Demo) -> Result:
    return {
        "autoencoder": _weights(demo),
        "rows": sha256_file(_instructions_file(demo.config)),
        "seed": demo.config.seed,
        "settings": [_TARGET_ROWS, _DRAWS, _RATIO, _TOKENS_OF_A_ROW],
    }


def instruction_rows(config: DemoConfig) -> list[dict[str, Any]]:
    """The rows to select from, with a text and a group that is large enough to choose from.

    Raises:
        InputError: the file is missing or broken, its rows have no text or no group, or too few of
            them are in the group `subject`.
    """
    from ...training.data.row_files.opening import open_rows
    from ...training.data.row_files.row_text import find_text_fields

    path = _instructions_file(config)
    rows = [dict(row) for row in open_rows(path, "--instructions").rows()]
    columns = Counter(name for row in rows for name in row)
    try:
        find_text_fields(columns, None, str(path), "--instructions")
    except InputError:
        raise InputError(
            f"{path} has the columns {', '.join(columns) or 'none'}, none of them known as text; "
            "rename one to `text`"
        ) from None
    groups = Counter(str(row["group"]) for row in rows if row.get("group") is not None)
    if not groups:
        raise InputError(f"{path} has no column `group`; name the group of each row there")
    subject, large = config.subject, [name for name, n in groups.items() if n > _TARGET_ROWS]
    if subject not in groups:
        near = nearest(subject, large)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(large)}"
        raise InputError(
            f"subject is {subject!r}, a group that no row of {path} has; {hint}", field="subject"
        )
    if subject not in large:
        raise InputError(
            f"subject is {subject!r}, but {path} has only {groups[subject]} rows of that group and "
            f"{_TARGET_ROWS} are the examples; give one of {', '.join(large) or 'a larger file'}",
            field="subject",
        )
    return rows


def _instructions_file(config: DemoConfig) -> Any:
    from ...sae.fetching.fetch import ARTIFACTS, fetch

    return fetch(config.instructions) if config.instructions in ARTIFACTS else config.instructions


APPLICATIONS: tuple[Stage, ...] = (
    Stage(
        name="index",
        title=f"index the {STEERED} features",
        run=_index,
        key=_index_key,
        is_there=_is_indexed,
        is_needed=lambda config: config.steers_own,
    ),
    Stage(
        name="features",
        title="find the features of toxic prompts",
        run=_find,
        key=_find_key,
    ),
    Stage(
        name="steering",
        title="measure toxicity with and without steering",
        run=_steer,
        key=_steer_key,
        is_there=lambda demo: demo.config.picks_file.is_file(),
    ),
    Stage(
        name="selection",
        title="select instruction rows of a subject",
        run=_select,
        key=_select_key,
    ),
)
"""In the order they run, after the autoencoders are trained and evaluated."""
