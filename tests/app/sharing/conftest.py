"""A run whose texts would harm a careless page, indexed, with picks and machine labels."""

import shutil
from pathlib import Path

import pytest

from sparsteer.sae import LanguageModel
from sparsteer.steering.features import BuildConfig, FeatureIndex, Pick, Picks, build_index
from sparsteer.steering.features.listing import ranked
from sparsteer.steering.labels import Detection, LabelStore, MachineLabel

from ...tiny_runs import cache_of_texts, random_topk

ATTACKS = (
    "<script>window.__pwned=1</script>",
    "<img src=x onerror=window.__pwned=2>",
    "</script><script>window.__pwned=3</script>",
    "'\"><svg onload=window.__pwned=4>",
    "</span></ol></section><!-- {{ 7*7 }} ${window.__pwned=5}",
    "`);window.__pwned=6;(`",
    "\u2028window.__pwned=7\u2029 \u202egnp.exe\u202c \x00\x1b[2J",
)


@pytest.fixture(scope="session")
def hostile_run(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 latents with an index of hostile texts; not to be changed."""
    folder = tmp_path_factory.mktemp("sharing")
    texts = [f"{number} {text}" for number in range(12) for text in ATTACKS]
    cache = cache_of_texts(folder, tiny_model, texts, context_length=64)
    run = folder / "run"
    random_topk(tiny_model, 40).save(run / "sae")
    build_index(BuildConfig(run=str(run), cache=str(cache), device="cpu"), model=tiny_model)
    return run


@pytest.fixture
def run(hostile_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be picked from and labeled."""
    shutil.copytree(hostile_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def picked_run(run: Path) -> Path:
    """The run with hostile labels: a person's of its first two interesting features, a machine's of
    the second and the third."""
    index = FeatureIndex(run)
    first, second, third = ranked(index, "interest")[:3]
    sae = index.manifest["sae"]
    picks = (
        Pick(feature=first, label=f"mine {ATTACKS[0]}", note=f"a note {ATTACKS[1]}", strength=-2.0),
        Pick(feature=second, label="plain words"),
        Pick(feature=third),
    )
    Picks(sae, picks).save(run)
    store = LabelStore(run, sae=sae)
    with store.writing():
        for feature in (second, third):
            store.add(
                MachineLabel(
                    feature=feature,
                    label=f"of a machine {ATTACKS[2]}",
                    model=f"model {ATTACKS[3]}",
                    endpoint="local",
                    method="m",
                    detection=Detection(
                        positives=4,
                        found=3,
                        near_misses=0,
                        near_misses_refused=0,
                        others=4,
                        others_refused=4,
                    ),
                    made="2026-01-01T00:00:00+00:00",
                )
            )
    return run
