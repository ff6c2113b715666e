"""What every page has in common."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sparsteer.app.browser.config import ServeConfig
from sparsteer.app.browser.server import create_app
from sparsteer.app.browser.session import Session
from sparsteer.sae import InputError

from .conftest import PORT


def test_a_page_that_is_not_there(client: TestClient) -> None:
    answer = client.get("/nowhere", headers={"Accept": "text/html"})
    assert answer.status_code == 404
    assert "there is no page /nowhere" in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (errno.ENOSPC, 507, "make room on its disk"),
        (errno.EDQUOT, 507, "make room in your quota"),
        (errno.EROFS, 403, "mount it for writing"),
        (errno.EACCES, 403, "change its permissions"),
        (errno.EIO, 500, "failed unexpectedly"),
    ],
)
def test_what_cannot_be_written_says_where_and_why(
    session: Session, monkeypatch: pytest.MonkeyPatch, number: int, code: int, says: str
) -> None:
    def failing(feature: int, **fields: Any) -> None:
        raise OSError(number, os.strerror(number), str(session.run / "picks.json"))

    monkeypatch.setattr(session.picks, "change", failing)
    base = f"http://127.0.0.1:{PORT}"
    headers = {"Origin": base, "Authorization": f"Bearer {session.token}"}
    client = TestClient(create_app(session, port=PORT), base_url=base, headers=headers)
    answer = client.post("/api/picks/7", json={"starred": True})
    error = answer.json()["error"]
    assert answer.status_code == code and says in error["message"]
    assert str(session.run) in error["message"]
    assert error["type"] == ("server_error" if code >= 500 else "invalid_request_error")


def test_an_index_that_is_not_whole_is_not_opened(run: Path) -> None:
    (run / "features" / "top_rows.npy").unlink()
    with pytest.raises(InputError, match=r"top_rows.npy is missing; build the index again"):
        Session(ServeConfig(run=str(run), device="cpu"), lambda sentence: None)


def test_a_model_that_cannot_be_read_is_said_where_it_is_needed(run: Path) -> None:
    config = ServeConfig(run=str(run), device="cpu", model=str(run / "nothing"))
    session = Session(config, lambda sentence: None)
    assert session.model_name == str(run / "nothing")
    base = f"http://127.0.0.1:{PORT}"
    headers = {"Origin": base, "Authorization": f"Bearer {session.token}"}
    client = TestClient(create_app(session, port=PORT), base_url=base, headers=headers)
    for path, body in (
        ("/v1/completions", {"prompt": "a"}),
        ("/api/playground/read", {"beginning": {"prompt": "a"}, "text": "b"}),
        ("/api/search", {"by": "text", "query": "a"}),
    ):
        answer = client.post(path, json=body)
        error = answer.json()["error"]
        assert answer.status_code == 503 and error["type"] == "server_error", path
        assert "the language model cannot be read: " in error["message"]
    assert client.get("/features/3", headers={"Accept": "text/html"}).status_code == 200


def test_the_status_names_the_model(client: TestClient) -> None:
    values = client.get("/api/status").json()
    assert values["model_status"] in ("loading", "ready")
