"""K-sparse probing from texts to figures, where one letter decides the label and one latent knows
the letter."""

import dataclasses
import json
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsteer.sae import LanguageModel, SparseAutoencoder
from sparsteer.sae.common.errors import InputError
from sparsteer.sae.config import ReLUConfig, TopKConfig
from sparsteer.sae.language_model.sites import read_sites
from sparsteer.training import ProbingSettings, probe
from sparsteer.training.evaluation.probing.reading import choose_examples, read_tasks
from sparsteer.training.evaluation.probing.result import Arm, ProbeScore, ProbingResult
from sparsteer.training.evaluation.probing.tasks import ProbingTask, task_of

from ....tiny_runs import SITE as MIDDLE

SITE = "blocks.0.hook_resid_pre"
"""Where the activation is the embedding of the token."""
KNOWS = 5
"""The latent of the letter."""
LETTER, OTHERS = "Q", "abcdefgh "
SETTINGS = ProbingSettings(texts=120, ks=(1, 3), seeds=2, batch_tokens=256)


def letters_task(name: str, seed: int, n_texts: int = 160) -> ProbingTask:
    """Words of random letters; half of them have the letter somewhere."""
    generator = random.Random(seed)
    rows: list[tuple[str, str]] = []
    for number in range(n_texts):
        letters = generator.choices(OTHERS, k=generator.randint(4, 14))
        if number % 2:
            letters[generator.randint(1, len(letters) - 1)] = LETTER
        rows.append(("".join(letters), str(number % 2)))
    return task_of(name, rows)


TASKS = [letters_task("one", 1), letters_task("two", 2)]


def content_rows(model: LanguageModel, text: str, site: str) -> Tensor:
    """Activations of a text's content tokens, read alone."""
    tokens = torch.tensor([[1, *model.tokenize(text)]])
    return read_sites(model, [model.site(site)], tokens)[site][~model.excluded_tokens(tokens)]


@pytest.fixture(scope="module")
def planted(tiny_model: LanguageModel) -> SparseAutoencoder:
    """Random latents, but for one that fires at the letter alone."""
    rows = content_rows(tiny_model, f"x{LETTER}{OTHERS}", SITE)
    inverse = np.linalg.pinv(rows.numpy())
    sae = SparseAutoencoder(ReLUConfig(tiny_model.d_model, 40), seed=3)
    with torch.no_grad():
        sae.W_enc[KNOWS] = torch.tensor(inverse)[:, 0]  # 1 at the letter, 0 at the others
        sae.b_enc[KNOWS] = -0.01
        sae.b_enc[KNOWS + 1 :] = -0.1
        sae.W_dec[KNOWS] *= 10
    return sae


@pytest.fixture(scope="module")
def result(planted: SparseAutoencoder, tiny_model: LanguageModel) -> Iterator[ProbingResult]:
    other = SparseAutoencoder(TopKConfig(tiny_model.d_model, 24, 4), seed=1)
    yield probe([planted, other], tiny_model, SITE, TASKS, SETTINGS)


def of_arm(scores: tuple[ProbeScore, ...], arm: Arm, k: int | None = 1) -> list[ProbeScore]:
    return [score for score in scores if (score.arm, score.k) == (arm, k)]


def test_one_latent_that_knows_the_label_is_found(result: ProbingResult) -> None:
    for score in of_arm(result.autoencoders[0], "latents"):
        assert score.columns == (KNOWS,)
        assert score.accuracy > 0.95 and score.auc > 0.95
    figures = result.figures(0)
    assert figures[0].accuracy.mean > 0.95
    above = {(one.above, one.k): one.accuracy for one in figures if one.above}
    assert above["random_latents", 1].mean > 0.1
    assert above["coordinates", 1].mean > 0.1


def test_shuffled_labels_score_at_chance(result: ProbingResult) -> None:
    for scores in result.autoencoders:
        for k in SETTINGS.ks:
            found = [score.accuracy for score in of_arm(scores, "shuffled_labels", k)]
            assert abs(sum(found) / len(found) - 0.5) < 0.15


def test_every_task_seed_arm_and_k_has_a_score(result: ProbingResult) -> None:
    n_tasks_seeds = len(TASKS) * SETTINGS.seeds
    assert len(of_arm(result.activation, "dense", None)) == n_tasks_seeds
    assert len(of_arm(result.activation, "coordinates", 3)) == n_tasks_seeds
    assert len(result.activation) == n_tasks_seeds * 3
    for scores in result.autoencoders:
        assert len(scores) == n_tasks_seeds * 3 * len(SETTINGS.ks)
        assert all(len(score.columns) == score.k for score in scores)
    assert [(task.name, task.texts, task.held_out) for task in result.tasks] == [
        ("one", 120, 36),
        ("two", 120, 36),
    ]


def test_the_result_goes_through_json(result: ProbingResult) -> None:
    shown = json.loads(json.dumps(result.as_dict()))
    assert shown["site"] == SITE and shown["pooling"] == "mean"
    (first, _) = shown["autoencoders"]
    assert first["figures"][0]["arm"] == "latents"
    assert first["scores"][0] == json.loads(
        json.dumps(dataclasses.asdict(result.autoencoders[0][0]))
    )


def test_the_same_again_and_alone(
    result: ProbingResult, planted: SparseAutoencoder, tiny_model: LanguageModel
) -> None:
    again = probe([planted], tiny_model, SITE, TASKS[1:], SETTINGS)
    of_task = [score for score in result.autoencoders[0] if score.task == "two"]
    assert [(one.arm, one.k, one.columns, one.accuracy) for one in again.autoencoders[0]] == [
        (one.arm, one.k, one.columns, one.accuracy) for one in of_task
    ]


def test_order_and_units_of_latents_do_not_matter(
    result: ProbingResult, planted: SparseAutoencoder, tiny_model: LanguageModel
) -> None:
    order = torch.randperm(planted.config.n_latents)
    units = torch.logspace(-2, 2, len(order))
    changed = SparseAutoencoder(planted.config)
    with torch.no_grad():
        changed.W_enc.copy_((planted.W_enc * units[:, None])[order])
        changed.b_enc.copy_((planted.b_enc * units)[order])
        changed.W_dec.copy_((planted.W_dec / units[:, None])[order])
    found = probe([changed], tiny_model, SITE, TASKS, SETTINGS)
    for arm in ("latents", "shuffled_labels"):
        pairs = zip(
            *(
                [score for score in scores if score.arm == arm]
                for scores in (found.autoencoders[0], result.autoencoders[0])
            ),
            strict=True,
        )
        for new, old in pairs:
            assert tuple(int(order[column]) for column in new.columns) == old.columns
            assert new.accuracy == old.accuracy
            assert new.auc == pytest.approx(old.auc, abs=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_batches_of_texts_are_read_as_each_alone(
    planted: SparseAutoencoder, tiny_model: LanguageModel, pooling: str
) -> None:
    settings = dataclasses.replace(SETTINGS, texts=60, pooling=pooling)
    (task,) = read_tasks([planted], tiny_model, MIDDLE, TASKS[:1], settings)
    every = torch.arange(planted.config.n_latents)
    pooled = task.codes[0].columns(every)
    norms = planted.decoder_norms().double()
    for number in range(0, len(task.examples), 4):
        example = task.examples[number]
        rows = content_rows(tiny_model, example.text, MIDDLE)
        codes = planted.encode(rows).dense(len(every)).detach().double() * norms
        expected = codes[-1] if pooling == "last" else codes.mean(0)
        torch.testing.assert_close(pooled[number], expected, rtol=1e-4, atol=1e-5)
        acts = rows[-1] if pooling == "last" else rows.double().mean(0)
        torch.testing.assert_close(task.activations[number], acts.double(), rtol=1e-4, atol=1e-5)


def test_texts_that_are_read_alike_are_one_text(tiny_model: LanguageModel) -> None:
    """Cut to eight letters, the first three are alike and of two labels, the next two of one."""
    same = ["abcdefgh yes", "abcdefgh no", "abcdefgh", "bbcdefgh 1", "bbcdefgh 2", "c"]
    given = [(text, text.endswith("no")) for text in same]
    rest = [(text[:8].ljust(8, "x"), label) for text, label in TASKS[0].texts]
    task = ProbingTask("cut", ("0", "1"), (*given, *rest))
    settings = dataclasses.replace(SETTINGS, texts=400, max_length=8)
    examples = choose_examples(task, tiny_model, settings)
    texts = [example.text for example in examples]
    assert "bbcdefgh 1" in texts
    assert not set(texts).intersection(["bbcdefgh 2", "c", "abcdefgh", "abcdefgh yes"])
    assert len({example.tokens for example in examples}) == len(examples)
    assert sum(example.label for example in examples) * 2 == len(examples)


def test_an_autoencoder_that_never_fires_guesses(tiny_model: LanguageModel) -> None:
    dead = SparseAutoencoder(ReLUConfig(tiny_model.d_model, 7))
    with torch.no_grad():
        dead.b_enc.fill_(-1e6)
    found = probe([dead], tiny_model, SITE, TASKS[:1], SETTINGS)
    assert {(score.accuracy, score.auc) for score in found.autoencoders[0]} == {(0.5, 0.5)}


def test_what_does_not_fit_is_refused(tiny_model: LanguageModel) -> None:
    wide = SparseAutoencoder(ReLUConfig(tiny_model.d_model + 1, 7))
    with pytest.raises(InputError, match="width"):
        probe([wide], tiny_model, SITE, TASKS, SETTINGS)
    few = dataclasses.replace(TASKS[0], texts=TASKS[0].texts[:40])
    with pytest.raises(InputError, match=r"'one' has .* different texts of a label"):
        probe([], tiny_model, SITE, [few], SETTINGS)
    with pytest.raises(InputError, match="no task"):
        probe([], tiny_model, SITE, [], SETTINGS)
