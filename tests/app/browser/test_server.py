"""What every page has in common."""

from starlette.testclient import TestClient


def test_a_page_that_is_not_there(client: TestClient) -> None:
    answer = client.get("/nowhere", headers={"Accept": "text/html"})
    assert answer.status_code == 404
    assert "there is no page /nowhere" in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_the_status_names_the_model(client: TestClient) -> None:
    values = client.get("/api/status").json()
    assert values["model_status"] in ("loading", "ready")
