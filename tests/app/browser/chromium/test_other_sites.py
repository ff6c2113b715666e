"""What pages of other sites, which a person has open as well, can do to the server: nothing."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from .conftest import Faults, Served, Visit

pytestmark = pytest.mark.slow

TRY_TO_CHANGE = """async url => {
    const tried = [];
    for (const type of ["text/plain", "application/json"]) {
        for (const mode of ["no-cors", "cors"]) {
            const options = {method: "POST", mode, credentials: "include",
                             body: '{"starred": true}',
                             headers: {"Content-Type": type}};
            try { tried.push((await fetch(url, options)).type); }
            catch (error) { tried.push("refused"); }
        }
    }
    return tried;
}"""


@pytest.fixture
def other_port() -> Iterator[str]:
    """A page of another server of this machine, to which the browser sends all its cookies."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>evil</title><body></body>")

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_a_page_of_another_port_can_neither_show_nor_read_nor_change(
    visit: Visit, faults: Faults, server: Served, other_port: str
) -> None:
    faults.allowed = ("40", "CORS", "ERR_", "NotSameOrigin", "Refused", "frame")
    page = visit()
    page.goto(other_port)
    loaded = page.evaluate(
        """async url => {
            const loaded = (name, source) => new Promise(done => {
                const made = document.createElement(name);
                made.onload = () => done("loaded");
                made.onerror = () => done("refused");
                made.src = source;
                document.body.append(made);
            });
            return [
                await loaded("img", url + "/static/icon.svg"),
                await loaded("script", url + "/static/common.js"),
                await loaded("script", url + "/api/status"),
            ];
        }""",
        server.url,
    )
    assert loaded == ["refused"] * 3
    with page.expect_response(f"{server.url}/features/3") as framed:
        page.evaluate(
            """url => {
                const frame = document.createElement("iframe");
                frame.src = url;
                document.body.append(frame);
            }""",
            f"{server.url}/features/3",
        )
    assert framed.value.status == 403
    picks = f"{server.url}/api/picks/3"
    authorized = {"Authorization": f"Bearer {server.token}"}
    before = page.request.get(picks, headers=authorized).json()
    tried = page.evaluate(TRY_TO_CHANGE, picks)
    assert set(tried) <= {"opaque", "refused"}
    assert page.request.get(picks, headers=authorized).json() == before
    read = page.evaluate(
        """async url => {
            try { return (await (await fetch(url, {credentials: "include"})).text()); }
            catch (error) { return "refused"; }
        }""",
        f"{server.url}/features/3",
    )
    assert read == "refused"


def test_a_name_that_was_made_to_point_here_is_not_answered(
    visit: Visit, faults: Faults, server: Served
) -> None:
    faults.allowed = ("40", "untrustworthy")
    page = visit()
    port = server.url.rpartition(":")[2]
    answer = page.goto(f"http://evil.example:{port}/?token={server.token}")
    assert answer is not None and answer.status == 400
    assert page.context.cookies("http://evil.example") == []
