"""The n-gram scorer: what it sees, what ships, and that fitting finds a planted word."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.detox.ngram_fit import NgramFitConfig, fit_ngram_classifier
from sparsteer.steering.detox.ngram_scorer import (
    BITS,
    WEIGHTS_FILE,
    NgramClassifier,
    ngram_numbers,
    ngram_toxicity,
)
from sparsteer.steering.detox.toxicity import identity_bias, toxicity_scores
from sparsteer.steering.registries import SCORERS

INSULT = "You are a stupid idiot and everyone hates you."
POLITE = "The committee will meet again on Thursday afternoon."
NAME = "toxicity-ngrams"


def test_insults_score_high_and_plain_sentences_low():
    high, low, empty = toxicity_scores([INSULT, POLITE, ""], NAME)
    assert high > 0.9
    assert low < 0.1
    assert empty < 0.1
    assert SCORERS.get(NAME) is ngram_toxicity


def test_scores_depend_on_the_text_alone_and_not_on_case_or_spaces():
    texts = [INSULT, POLITE, "\u2603 \ud7ff \n", "\ud800"]
    assert toxicity_scores(texts, NAME) == [toxicity_scores([text], NAME)[0] for text in texts]
    assert ngram_toxicity([INSULT.upper().replace(" ", "\n ")]) == ngram_toxicity([INSULT])
    assert ngram_toxicity([f"{INSULT} {INSULT}"])[0] > 0.9


def test_the_word_for_a_kind_of_people_is_not_an_insult_to_it():
    assert max(identity_bias(NAME).values()) < 0.5


def test_it_is_not_the_other_scorer():
    sentence = "I am gay and I love my family."
    assert toxicity_scores([sentence], NAME)[0] < 0.5 < toxicity_scores([sentence])[0]


def test_the_card_names_the_weights_that_ship():
    import hashlib

    digest = hashlib.sha256(WEIGHTS_FILE.read_bytes()).hexdigest()
    assert digest in (WEIGHTS_FILE.parent / "README.md").read_text()


def test_scoring_needs_no_library_of_learning(tmp_path: Path):
    code = (
        "import sys, json\n"
        "from sparsteer.steering.detox.ngram_scorer import ngram_toxicity\n"
        f"scores = ngram_toxicity([{INSULT!r}, {POLITE!r}])\n"
        "names = ('torch', 'sklearn', 'scipy')\n"
        "print(json.dumps([scores, [name for name in names if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    scores, imported = json.loads(done.stdout)
    assert scores == ngram_toxicity([INSULT, POLITE])
    assert imported == []


def test_n_grams_by_hand():
    one = ngram_numbers("ab")  # w:ab, c:<ab, ab>, <ab>
    assert len(one) == 4
    assert list(one) == sorted(set(one))
    assert one.max() < 1 << BITS
    assert set(one) <= set(ngram_numbers("ab cd"))
    assert len(ngram_numbers("")) == 0


def test_fitting_finds_a_planted_word_and_saving_keeps_it(tmp_path: Path):
    pytest.importorskip("sklearn")
    things = ["the house", "a river", "my garden", "her book", "this road"]
    toxic = [f"{thing} is {word}" for thing in things for word in ("blorped", "snarky blorped")]
    harmless = [f"{thing} is {word}" for thing in things for word in ("fine", "small")]
    ordinary = [["rivers and houses by the road " * 20]]
    config = NgramFitConfig(spans=50, seed=3)
    fitted = fit_ngram_classifier(toxic, harmless, ordinary, config)
    held_out = fitted(["the car is blorped", "the car is fine", "the blorped car and the road"])
    assert held_out[0] > 0.5 > held_out[1]
    assert held_out[2] > held_out[1]
    again = fit_ngram_classifier(toxic, harmless, ordinary, config)
    assert (again.weights == fitted.weights).all()
    fitted.save(tmp_path / "w.safetensors")
    loaded = NgramClassifier.load(tmp_path / "w.safetensors")
    assert loaded(toxic) == pytest.approx(fitted(toxic), abs=1e-3)
    assert np.isfinite(loaded.weights).all()
    with pytest.raises(InputError, match="no toxic texts"):
        fit_ngram_classifier([], harmless, ordinary)
