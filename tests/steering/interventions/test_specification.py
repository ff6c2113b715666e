"""The general form of an intervention: as JSON, in a folder, in words, and scaled."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.sae.common.errors import InputError
from sparsteer.steering import Edit, Gate, Intervention, SteeredFeature, Vectors

SITE = "blocks.1.hook_resid_post"
FEATURE = SteeredFeature(index=4, strength=2.0, sign=-1, max_activation=3.0, p99=2.5)


def whole() -> Intervention:
    return Intervention(
        edits=(
            Edit(kind="add", site=SITE, strength=-0.5, vectors=Vectors({"v": torch.arange(3.0)})),
            Edit(
                kind="clamp",
                site="blocks.2.hook_resid_pre",
                unit="p99",
                features=(FEATURE,),
                gate=Gate(kind="per_token", threshold=-math.inf),
            ),
        ),
        gate=Gate(
            kind="cosine",
            threshold=0.25,
            site="blocks.0.hook_resid_post",
            vectors=Vectors({"c": torch.ones(3, dtype=torch.float64)}),
            settings={"scope": "per_input", "pool": "last"},
        ),
        positions="generated",
    )


def test_json_names_what_is_not_usual_and_the_digest_of_vectors() -> None:
    spec = whole()
    values = json.loads(spec.to_json())
    assert values == {
        "edits": [
            {
                "kind": "add",
                "site": SITE,
                "strength": -0.5,
                "vectors": spec.vectors["edits.0"].digest,
            },
            {
                "kind": "clamp",
                "site": "blocks.2.hook_resid_pre",
                "unit": "p99",
                "features": [
                    {"index": 4, "strength": 2.0, "sign": -1, "max_activation": 3.0, "p99": 2.5}
                ],
                "gate": {"kind": "per_token", "threshold": "-inf"},
            },
        ],
        "gate": {
            "kind": "cosine",
            "threshold": 0.25,
            "site": "blocks.0.hook_resid_post",
            "vectors": spec.vectors["gate"].digest,
            "settings": {"scope": "per_input", "pool": "last"},
        },
        "positions": "generated",
    }
    again = Intervention.from_dict(values)
    assert again == spec and hash(again) == hash(spec)
    with pytest.raises(InputError, match="are not in its JSON; give the folder"):
        _ = again.vectors["gate"].tensors


def test_a_folder_is_read_as_it_was_written_and_damage_is_found(tmp_path: Path) -> None:
    spec, folder = whole(), tmp_path / "spec"
    spec.save(folder)
    loaded = Intervention.load(folder)
    assert loaded == spec
    kept = loaded.vectors["gate"].tensors["c"]
    assert kept.dtype == torch.float64 and torch.equal(kept, torch.ones(3).double())
    other = dataclasses.replace(spec, edits=spec.edits[1:])
    other.save(folder)  # in its place, whole
    assert Intervention.load(folder) == other
    file = folder / "intervention.json"
    file.write_text(file.read_text().replace(spec.vectors["gate"].digest, "0" * 64))
    with pytest.raises(InputError, match="are not those that were written"):
        Intervention.load(folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else than an intervention"):
        spec.save(folder)
    known = Intervention.from_json(spec.to_json())
    with pytest.raises(InputError, match="are not in its JSON"):
        known.save(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_equal_vectors_are_those_of_equal_content() -> None:
    one = Vectors({"b": torch.tensor([1, 2]), "a": torch.tensor(0.5)})
    assert one == Vectors({"a": torch.tensor(0.5), "b": torch.tensor([1, 2])})
    assert one != Vectors({"a": torch.tensor(0.5).double(), "b": torch.tensor([1, 2])})
    assert one != Vectors({"a": torch.tensor(0.5), "b": torch.tensor([[1, 2]])})
    source = torch.zeros(2)
    kept = Vectors({"v": source})
    source += 1
    assert not kept.tensors["v"].any()


def test_scaling_goes_by_features_or_by_the_edit() -> None:
    added = Intervention.of_features(site=SITE, features=(FEATURE,))
    assert added.scaled(3.0).features[0].strength == 6.0
    assert added.scaled(3.0).edits[0].strength == 1.0
    twice = whole().scaled(3.0)
    assert [edit.strength for edit in twice.edits] == [-1.5, 3.0]
    assert twice.features == whole().features
    assert whole().scaled(0.0).changes_nothing and not whole().changes_nothing
    assert added.with_tier("per_token") == Intervention.of_features(
        site=SITE, features=(FEATURE,), tier="per_token"
    )


def test_the_general_form_is_put_in_words() -> None:
    assert whole().pushes == (
        f"add at {SITE}, strength -0.5 and clamp at blocks.2.hook_resid_pre, strength 1, "
        "features 4 at -2 (in units of p99)"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"edits": []}, "edits is empty"),
        ({"edits": {}}, "give a list of edits"),
        ({"edits": [3]}, r"edits\[0\]: 3 stands where"),
        ({"edits": [{"kind": "clap", "site": SITE}]}, r"edit is 'clap'; did you mean clamp\?"),
        ({"edits": [{"kind": "add"}]}, r"edits\[0\]: the key 'site' is missing"),
        ({"edits": [{"kind": "add", "site": SITE, "stength": 1}]}, r"did you mean strength\?"),
        ({"edits": [{"kind": "add", "site": SITE, "strength": math.nan}]}, "strength is nan"),
        ({"edits": [{"kind": "add", "site": SITE, "unit": "norms"}]}, "unit is 'norms'"),
        ({"edits": [{"kind": "add", "site": SITE, "vectors": 3}]}, "vectors is 3; give their dig"),
        ({"edits": [{"kind": "add", "site": SITE, "settings": {"a": math.inf}}]}, "setting a is"),
        ({"gate": {"kind": "cosin"}}, r"gate: tier is 'cosin'; did you mean cosine\?"),
        ({"positions": "some"}, "positions is 'some'; choose all, prompt, generated or last"),
        ({"cap": {"budget": 1.0}}, r"cap: the key 'vectors' is missing"),
        ({"caps": {}}, r"no key 'caps'; did you mean cap\?"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_general_forms_are_input_errors(values: dict[str, Any], message: str) -> None:
    usual = {"edits": [{"kind": "add", "site": SITE, "vectors": "ab"}]}
    with pytest.raises(InputError, match=message):
        Intervention.from_dict({**usual, **values})


def test_a_specification_is_read_without_torch() -> None:
    code = (
        "import sys\n"
        "from sparsteer.steering.interventions.intervention import Intervention\n"
        f"spec = Intervention.from_json({whole().to_json()!r})\n"
        "spec.to_dict(), spec.sites, spec.pushes\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
