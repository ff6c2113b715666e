"""Scorers that ask something else: a classifier of transformers, a service, a judge."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType] - partly untyped

from sparsteer.sae.common.errors import InputError
from sparsteer.steering.detox.classifier_scorer import ClassifierScorer
from sparsteer.steering.detox.judge_scorer import JudgeScorer, rating_in
from sparsteer.steering.detox.perspective_scorer import PerspectiveScorer
from sparsteer.steering.detox.toxicity import identity_bias, toxicity, toxicity_scores
from sparsteer.steering.labels.answers import BadAnswer
from sparsteer.steering.labels.chat_client import ChatAnswer

TEXTS = ["a b c", "", "some longer text that is read with padding around the others", "x"]


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A random classifier with the tiny model's tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizers: Any = AutoTokenizer
    tokenizer = tokenizers.from_pretrained(tiny_model_folder)
    config = BertConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=1.0,
        problem_type="multi_label_classification",
        id2label={0: "toxic", 1: "severe_toxic", 2: "obscene"},
        label2id={"toxic": 0, "severe_toxic": 1, "obscene": 2},
        pad_token_id=0,
    )
    torch.default_generator.manual_seed(0)
    model: Any = BertForSequenceClassification(config)
    folder = tmp_path_factory.mktemp("classifier")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_classifier_scores_each_text_by_its_label(classifier_folder: Path):
    texts = [text or "z" for text in TEXTS]
    scorer = ClassifierScorer.load(str(classifier_folder))
    assert scorer.label == "toxic"
    scores = toxicity_scores(texts, scorer)
    assert scores == pytest.approx([scorer([text])[0] for text in texts], abs=1e-5)
    other = ClassifierScorer.load(str(classifier_folder), label="obscene")
    assert other(texts) != pytest.approx(scores, abs=1e-3)
    long = ClassifierScorer.load(str(classifier_folder))(["a" * 2000])
    assert long == scorer(["a" * 512])


@pytest.mark.slow
def test_classifiers_without_the_label_or_without_safetensors_are_refused(
    classifier_folder: Path, tmp_path: Path
):
    with pytest.raises(InputError, match="toxic, severe_toxic, obscene"):
        ClassifierScorer.load(str(classifier_folder), label="rude")
    pickled = tmp_path / "pickled"
    shutil.copytree(classifier_folder, pickled)
    weights = load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    with pytest.raises(
        InputError, match="holds no safetensors weights, and pickled weights are never loaded"
    ):
        ClassifierScorer.load(str(pickled))
    with pytest.raises(InputError, match="nothing"):
        ClassifierScorer.load(str(tmp_path / "nothing"))


def service(body: dict[str, Any]) -> dict[str, Any]:
    score = min(1.0, len(body["comment"]["text"]) / 100)
    assert body["doNotStore"] is True
    assert body["requestedAttributes"] == {"TOXICITY": {}}
    return {"attributeScores": {"TOXICITY": {"summaryScore": {"value": score, "type": "P"}}}}


def test_a_service_of_perspectives_shape():
    scorer = PerspectiveScorer(service)
    assert scorer(TEXTS) == [0.05, 0.0, len(TEXTS[2]) / 100, 0.01]
    assert toxicity(TEXTS, scorer).fraction == 0.25
    assert identity_bias(scorer)["deaf"] == len("I am deaf and I love my family.") / 100


@pytest.mark.parametrize("answer", [{}, {"attributeScores": {"TOXICITY": {"summaryScore": None}}}])
def test_answers_without_a_score_are_refused(answer: dict[str, Any]):
    with pytest.raises(InputError, match="no score of TOXICITY"):
        PerspectiveScorer(lambda body: answer)(["x"])


class Server:
    """Answers with what it is given, and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), list[str]()

    def ask(self, messages: list[dict[str, str]], read: Callable[[ChatAnswer], float]) -> float:
        self.asked.append(messages[-1]["content"])
        return read(ChatAnswer(self.answers.pop(0), False, 0, 0))


def test_a_judge_rates_each_text_by_itself():
    server = Server("7", "0/10", "<think>9 or 2?</think>10")
    assert JudgeScorer(server)(["a", "", "b", "c"]) == [0.7, 0.0, 0.0, 1.0]
    assert server.asked == ["Text:\na", "Text:\nb", "Text:\nc"]


@pytest.mark.parametrize("answer", ["", "I will not read this.", "11", "3 or 4", "0.5", "-"])
def test_what_is_no_rating_is_refused(answer: str):
    with pytest.raises(BadAnswer):
        rating_in(ChatAnswer(answer, False, 0, 0))
    with pytest.raises(InputError, match="does not rate"):
        JudgeScorer(Server(answer))(["x"])
