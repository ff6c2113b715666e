"""The verb `steer trace`: an object for programs, tables for people, sentences for mistakes."""

import json
from pathlib import Path

import pytest
import torch

from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import Edit
from sparsteer.steering.interventions.vectors import Vectors

from .conftest import Sparsteer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An intervention and files of questions."""
    folder = tmp_path_factory.mktemp("trace")
    v_D = torch.randn(32, generator=torch.Generator().manual_seed(0))
    edit = Edit(site="blocks.1.hook_resid_post", vectors=Vectors({"v": v_D}))
    Intervention(edits=(edit,)).save(folder / "push")
    (folder / "concept.txt").write_text("where is the cat\nwhat does a cat eat\nwho has a cat")
    (folder / "unrelated.txt").write_text("how is it\nwhat is that")
    (folder / "reminders.txt").write_text("a cat is an animal\nit eats fish")
    return folder


def words_for(folder: Path, model: Path) -> tuple[object, ...]:
    files = (*("--concept", folder / "concept.txt"), *("--unrelated", folder / "unrelated.txt"))
    few = ("--max-new-tokens", 3, "--draws", 1, "--value-vectors", 3, "--n-words", 2)
    return ("steer", "trace", folder / "push", "--model", model, *files, *few)


def test_a_trace_is_reported(
    sparsteer: Sparsteer, tiny_model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    words = words_for(folder, tiny_model_folder)
    more = ("--reminders", folder / "reminders.txt", "--limit", 2, "--out", tmp_path / "t.json")
    values = sparsteer(*words, *more, "--json").values
    assert values == json.loads((tmp_path / "t.json").read_text())
    assert [each["name"] for each in values["conditions"]] == [
        *("none", "steered", "needle", "random needle")
    ]
    none, steered = values["conditions"][:2]
    kinds = ["concept", "unrelated", "reminded"]
    assert (
        list(none["answers"]) == kinds == list(dict.fromkeys(a["kind"] for a in values["answers"]))
    )
    assert all(each["questions"] == 2 for each in steered["answers"].values())
    assert steered["answers"]["concept"]["loss_rise"]["mean"] != 0
    reminded = next(each for each in values["answers"] if each["kind"] == "reminded")
    assert reminded["question"] == "a cat is an animal\n\nit eats fish\n\nwhere is the cat"
    assert len(values["value_vectors"]) == 3 and len(values["concept_tokens"]) == 2
    again = sparsteer(*words, *more)
    assert again.status == 2 and "--force" in again.error


def test_a_page_for_people(sparsteer: Sparsteer, tiny_model_folder: Path, folder: Path) -> None:
    done = sparsteer(*words_for(folder, tiny_model_folder))
    for part in (
        "tokens of the concept: '",
        "3 MLP value vectors",
        "rise in the loss of the untouched model's own answers",
        "likeness of the answers",
        "what is left of what these neurons write",
        "probability of the concept's tokens",
    ):
        assert part in done.out
    assert "too few to say much" in done.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("i", "--model", "m"), "--concept and --unrelated are missing"),
        (("i", "--concept", "c", "--unrelated", "u"), "--run is missing; give the folder of a run"),
        (("--draws", "0"), "--draws is 0"),
        (("--needle", "cut"), "--needle is 'cut', but must be one of zero, noise"),
        (("--words", ""), "--words has an empty one"),
        (("--noise", "-1"), "--noise is -1"),
    ],
)
def test_wrong_words(
    sparsteer: Sparsteer, folder: Path, words: tuple[str, ...], sentence: str
) -> None:
    whole: tuple[object, ...] = ("steer", "trace", *words)
    if words[0].startswith("--"):
        whole = (*words_for(folder, Path("no-model"))[:9], *words)
    done = sparsteer(*whole)
    assert done.status == 2 and sentence in done.error


def test_an_intervention_with_features_needs_its_run(
    sparsteer: Sparsteer, tiny_model_folder: Path, folder: Path, tmp_path: Path
) -> None:
    feature = {"index": 1, "strength": 1.0, "max_activation": 1.0}
    spec = {"site": "blocks.1.hook_resid_post", "features": [feature], "tier": "constant"}
    (tmp_path / "i.json").write_text(json.dumps(spec))
    words = list(words_for(folder, tiny_model_folder))
    words[2] = tmp_path / "i.json"
    assert "give the folder of its run with --run" in sparsteer(*words).error
