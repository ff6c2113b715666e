"""Labels by a language model in this process, here a random one."""

from pathlib import Path

import pytest

from sparsteer.sae import InputError, LanguageModel
from sparsteer.steering.features import FeatureIndex
from sparsteer.steering.features.listing import ranked
from sparsteer.steering.labels import LabelConfig, label_features, machine_labels
from sparsteer.steering.labels.answers import BadAnswer
from sparsteer.steering.labels.evidence import evidence_of
from sparsteer.steering.labels.local_labeler import LocalLabeler


@pytest.mark.slow
def test_a_run_is_labeled_by_its_own_model(run: Path) -> None:
    values = label_features(LabelConfig(run=str(run), endpoint="local", top=3, judged=3))
    assert values["endpoint"] == "local" and values["model"] == FeatureIndex(run).manifest["model"]
    assert len(values["labels"]) + len(values["rejected"]) == 3
    assert values["requests"] and values["tokens_in"]
    assert values["estimate"]["tokens_in"] is None
    if not values["rejected"]:
        assert values["requests"] == values["estimate"]["requests"]
    labels = machine_labels(run)
    assert len(labels) == len(values["labels"])
    assert all(label.endpoint == "local" for label in labels.values())


def test_what_fits_is_read_from_the_logits_and_repeats(
    run: Path, tiny_model: LanguageModel
) -> None:
    labeler = LocalLabeler(tiny_model)
    texts = ["abc def", "a", "", "ghg hgh", "abc def"]
    fitting = labeler.fitting("letters", texts)
    assert fitting == labeler.fitting("letters", texts) and fitting <= {1, 2, 4, 5}
    assert (1 in fitting) == (5 in fitting), "the order of the texts says nothing"
    assert 3 not in fitting, "the empty text is what the others are measured against"
    # Each text was asked about by itself.
    assert {n for n, text in enumerate(texts, 1) if labeler.fitting("letters", [text])} == fitting


def test_the_prompt_fits_into_the_model(run: Path, tiny_model: LanguageModel) -> None:
    index = FeatureIndex(run)
    evidence = evidence_of(index.feature(ranked(index, "interest")[0]), 12)
    labeler = LocalLabeler(tiny_model)
    try:
        labeler.label(evidence)
    except BadAnswer as error:
        assert labeler.usage.rejected == {str(error): 1}
    assert labeler.usage.requests == 1 and labeler.usage.tokens_in <= tiny_model.max_context


def test_a_model_without_room_is_refused(
    run: Path, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = FeatureIndex(run)
    evidence = evidence_of(index.feature(ranked(index, "interest")[0]), 12)
    monkeypatch.setattr(tiny_model, "max_context", 40)
    with pytest.raises(InputError, match="too few for an example"):
        LocalLabeler(tiny_model).label(evidence)
