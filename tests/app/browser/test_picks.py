"""The picks over HTTP: changed, undone, shared by two tabs, exported and imported."""

import json
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from sparsteer.app.browser.server import create_app
from sparsteer.app.browser.session import Session
from sparsteer.steering.features import Pick, Picks
from sparsteer.steering.features.config import PickConfig
from sparsteer.steering.features.picking import change_picks

from .conftest import PORT


@pytest.fixture
def tabs(session: Session) -> Iterator[tuple[TestClient, TestClient]]:
    """Two tabs of one browser."""
    app = create_app(session, port=PORT)
    base = f"http://127.0.0.1:{PORT}"
    opened: list[TestClient] = []
    for name in ("one", "two"):
        headers = {"Origin": base, "X-Sparsteer-Tab": name}
        tab = TestClient(app, base_url=base, headers=headers)
        tab.cookies.set(f"sparsteer-token-{PORT}", session.token)
        opened.append(tab)
    yield opened[0], opened[1]


def test_a_change_is_saved_at_once(client: TestClient, session: Session) -> None:
    assert client.get("/api/picks/7").json()["pick"] is None
    values = {"label": "<b>seven</b>", "starred": True, "strength": 2, "confidence": 4}
    answer = client.post("/api/picks/7", json=values).json()
    assert answer["pick"] == {
        **{"feature": 7, "label": "<b>seven</b>", "note": "", "strength": 2.0, "starred": True},
        **{"verdict": "", "confidence": 4, "label_source": "person"},
    }
    assert answer["progress"]["reviewed"] == 1
    client.post("/api/picks/7", json={"confidence": None, "verdict": "keep"})
    expected = Pick(feature=7, label="<b>seven</b>", strength=2.0, starred=True, verdict="keep")
    sae = session.index.manifest["sae"]
    assert Picks.load(session.run, sae=sae).picks == (expected,)
    listed = client.get("/api/picks").json()
    assert [pick["feature"] for pick in listed["picks"]] == [7]
    assert client.post("/api/picks/7/remove", json={}).json()["pick"] is None
    assert client.post("/api/picks/undo", json={}).json()["features"] == [7]
    assert Picks.load(session.run, sae=sae).picks == (expected,)


@pytest.mark.parametrize(
    ("path", "values", "sentence"),
    [
        ("7", {"verdict": "maybe"}, "verdict is 'maybe'"),
        ("7", {"confidence": 9}, "confidence is 9"),
        ("7", {"confidence": True}, "confidence"),
        ("7", {"strength": 10**400}, "strength is a number of hundreds of digits"),
        ("7", {"starred": None}, "starred is null"),
        ("7", {"starred": "yes"}, "starred"),
        ("7", {"colour": "red"}, "colour"),
        ("7", {"label": "x" * 301}, "label has 301 characters"),
        ("7", {"note": "x" * 4001}, "note has 4,001 characters"),
        ("48", {"starred": True}, "there is no feature 48"),
        ("-1", {"starred": True}, "there is no feature -1"),
        ("seven", {"starred": True}, "feature"),
        ("7/remove", {}, "feature 7 is not picked"),
        ("import", {"file": {"picks": []}}, "no picks file"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_wrong_values_are_refused(
    client: TestClient, session: Session, path: str, values: dict[str, object], sentence: str
) -> None:
    answer = client.post(f"/api/picks/{path}", json=values)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]["message"]
    assert not (session.run / "picks.json").exists()


def test_numbers_that_json_lacks_are_refused(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/picks/7", content='{"strength": NaN}', headers=headers)
    assert answer.status_code == 400


def test_two_tabs_and_a_command_see_each_other(
    tabs: tuple[TestClient, TestClient], session: Session
) -> None:
    one, two = tabs
    revision = two.get("/api/picks").json()["revision"]
    assert two.get(f"/api/picks?since={revision}").json() == {
        "revision": revision,
        "changed": False,
    }
    one.post("/api/picks/3", json={"starred": True})
    two.post("/api/picks/3", json={"label": "theirs"})
    config = PickConfig(run=str(session.run), action="add", feature=(3, 5), strength=-2.0)
    change_picks(config)
    seen = two.get(f"/api/picks?since={revision}").json()
    assert seen["changed"] and [pick["feature"] for pick in seen["picks"]] == [3, 5]
    assert seen["picks"][0]["starred"] and seen["picks"][0]["label"] == "theirs"
    assert one.post("/api/picks/undo", json={}).json()["picks"]["3"] == {
        **{"feature": 3, "label": "theirs", "note": "", "strength": -2.0, "starred": False},
        **{"verdict": "", "confidence": None, "label_source": "person"},
    }
    nothing = one.post("/api/picks/undo", json={})
    assert nothing.status_code == 409
    assert "left to undo" in nothing.json()["error"]["message"]
    authors = [step["author"] for step in two.get("/api/picks/history").json()["steps"]]
    assert authors == ["tab one", "command", "tab two", "tab one"]


def test_undo_does_not_overwrite_the_other_tab(tabs: tuple[TestClient, TestClient]) -> None:
    one, two = tabs
    one.post("/api/picks/3", json={"label": "mine"})
    two.post("/api/picks/3", json={"label": "theirs"})
    answer = one.post("/api/picks/undo", json={})
    assert answer.status_code == 409
    assert "label of feature 3 has been changed since" in answer.json()["error"]["message"]
    assert one.get("/api/picks/3").json()["pick"]["label"] == "theirs"


def test_out_and_in_again(client: TestClient, session: Session) -> None:
    client.post("/api/picks/3", json={"label": "three", "starred": True})
    exported = client.get("/api/picks/export")
    assert exported.headers["content-disposition"] == 'attachment; filename="picks.json"'
    assert exported.text == (session.run / "picks.json").read_text()
    file = json.loads(exported.text)
    client.post("/api/picks/3", json={"label": "else"})
    client.post("/api/picks/4", json={"label": "four"})
    client.post("/api/picks/import", json={"file": file})
    labels = {pick["feature"]: pick["label"] for pick in client.get("/api/picks").json()["picks"]}
    assert labels == {3: "three", 4: "four"}
    client.post("/api/picks/import", json={"file": file, "mode": "replace"})
    assert [pick["feature"] for pick in client.get("/api/picks").json()["picks"]] == [3]
    client.post("/api/picks/undo", json={})
    assert len(client.get("/api/picks").json()["picks"]) == 2
    file["picks"][0]["label"] = "changed"
    damaged = client.post("/api/picks/import", json={"file": file})
    assert damaged.status_code == 400
    assert "has changed since it was written" in damaged.json()["error"]["message"]
    del file["sha256"]
    by_hand = client.post("/api/picks/import", json={"file": {**file, "version": 1}})
    assert by_hand.status_code == 200
    assert client.get("/api/picks/3").json()["pick"]["label"] == "changed"
    other = client.post("/api/picks/import", json={"file": {**file, "version": 1, "sae": "a" * 64}})
    assert other.status_code == 400 and "another autoencoder" in other.text


def test_a_tab_has_a_plain_name(client: TestClient) -> None:
    answer = client.post("/api/picks/3", json={}, headers={"X-Sparsteer-Tab": "a b\x1b"})
    assert answer.status_code == 400
