"""Interventions that the operator named are used by their names, and nothing else is reached."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from sparsteer.app.browser.config import ServeConfig
from sparsteer.app.browser.session import Session
from sparsteer.sae.common.checksums import write_checked_json
from sparsteer.sae.common.errors import InputError
from sparsteer.steering.config import Sampling
from sparsteer.steering.generation import generate
from sparsteer.steering.interventions.intervention import Intervention
from sparsteer.steering.interventions.spec import Edit
from sparsteer.steering.interventions.vectors import Vectors

from ....tiny_runs import SITE
from ..conftest import PORT

SAID: list[str] = []


def push(width: int = 32) -> Intervention:
    draw = torch.Generator().manual_seed(3)
    v_D = 20 * torch.randn(width, generator=draw)
    return Intervention(edits=(Edit(site=SITE, vectors=Vectors({"v": v_D})),))


@pytest.fixture
def session(run: Path, tmp_path: Path) -> Iterator[Session]:
    """In place of the one without names: one that fits, one of another width, a fit to another
    model, and one beside them that nobody named."""
    for name, width in (("fits", 32), ("wide", 40), ("foreign", 32), ("unnamed", 32)):
        push(width).save(tmp_path / name)
    model = {"name": "other", "weights_hash": "0" * 64, "d_model": 32}
    fit = {"version": 2, "method": "mean_difference", "model": model, "report": {}}
    write_checked_json(tmp_path / "foreign" / "fit.json", fit)
    named = tuple(f"{name}={tmp_path / name}" for name in ("fits", "wide", "foreign"))
    config = ServeConfig(run=str(run), port=PORT, device="cpu", interventions=named)
    SAID.clear()
    opened = Session(config, SAID.append)
    _ = opened.loaded
    yield opened
    opened.close()


def ask(client: TestClient, **steering: Any) -> Any:
    body = {"prompt": "cats", "temperature": 0, "max_tokens": 8}
    return client.post("/v1/completions", json={**body, "steering": steering or None})


def test_a_named_intervention_steers_as_it_does_elsewhere(
    client: TestClient, session: Session
) -> None:
    texts: dict[float, str] = {}
    for strength in (1.0, 0.5):
        answer = ask(client, intervention="fits", strength=strength).json()
        spec = push().scaled(strength)
        model = session.loaded.model
        (expected,) = generate(model, ["cats"], Sampling(max_new_tokens=8), intervention=spec)
        texts[strength] = answer["choices"][0]["text"]
        assert texts[strength] == expected.text
        assert answer["steering"] == {"intervention": "fits", "strength": strength}
        again = ask(client, **answer["steering"]).json()
        assert again["choices"] == answer["choices"]
    plain = ask(client).json()
    assert plain["choices"][0]["text"] != texts[1.0] and "steering" not in plain
    assert ask(client, intervention="fits", strength=0).json()["choices"] == plain["choices"]
    assert ask(client, intervention="fits").json()["choices"][0]["text"] == texts[1.0]


def test_what_does_not_fit_is_said_and_refused(client: TestClient, session: Session) -> None:
    assert session.saved.names == ["fits"]
    (model,) = client.get("/v1/models").json()["data"]
    assert model["interventions"] == ["fits"]
    for name in ("wide", "foreign"):
        (said,) = (each for each in SAID if f"'{name}' cannot be used here" in each)
        answer = ask(client, intervention=name)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"][:40] == said[:40]
    others = session.saved.check(session.loaded, allow_other_weights=True)
    assert len(others) == 1 and "wide" in others[0]


@pytest.mark.parametrize(
    ("steering", "sentence"),
    [
        ({"intervention": "other"}, "and this server knows fits"),
        ({"intervention": "../unnamed"}, "and this server knows fits"),
        ({"intervention": ["fits"]}, "and this server knows fits"),
        ({"intervention": "fits", "tier": "constant"}, "steering.tier cannot stand beside"),
        ({"intervention": "fits", "strength": "much"}, "strength is 'much'"),
        ({"intervention": "fits", "edits": []}, "steering.edits cannot stand beside"),
    ],
)
def test_requests_that_are_refused(
    client: TestClient, steering: dict[str, Any], sentence: str
) -> None:
    answer = ask(client, **steering)
    assert answer.status_code == 400 and sentence in answer.json()["error"]["message"]


def test_a_path_is_no_name(client: TestClient, tmp_path: Path) -> None:
    answer = ask(client, intervention=str(tmp_path / "unnamed"))
    assert answer.status_code == 400 and "this server knows fits" in answer.text


def test_picks_stand_for_themselves(client: TestClient) -> None:
    body = {"prompt": "cats", "picks": "all", "steering": {"intervention": "fits"}}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert "picks cannot stand beside steering" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("fits",), "interventions has 'fits'; give NAME=PATH"),
        (("=fits",), "give NAME=PATH"),
        (("a/b=fits",), "give NAME=PATH"),
        (("a=x", "a=y"), "interventions has the name 'a' twice"),
    ],
)
def test_wrong_names_of_the_operator(given: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ServeConfig(interventions=given)


def test_a_missing_folder_ends_the_start(run: Path, tmp_path: Path) -> None:
    config = ServeConfig(run=str(run), interventions=(f"a={tmp_path / 'nothing'}",))
    with pytest.raises(InputError, match="nothing"):
        Session(config, lambda sentence: None)
