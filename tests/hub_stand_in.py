"""A stand-in for the Hugging Face hub on loopback, that `huggingface_hub`'s own client talks to.

It keeps repositories in memory and speaks as much of the hub's HTTP as downloading and committing
take, with the headers and error codes by which the client tells what happened. Large files go by
the LFS protocol; the Xet protocol it does not speak, so a client that uploads must have
HF_HUB_DISABLE_XET=1, or it would look for a Xet server.
"""

import base64
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .hub_repository import LARGE, Files, Repository, git_oid, sha256


class HubStandIn(ThreadingHTTPServer):
    """The server, with what it holds, what it was asked, and what it is to do wrong."""

    daemon_threads = True

    def __init__(self, cache: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.environment = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_CACHE": str(cache),
            "HF_TOKEN_PATH": str(cache / "no-token"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        """By which a program of its own asks this server, and keeps what it got in `cache`."""
        self.users: dict[str, str] = {"token-of-owner": "owner", "token-of-guest": "guest"}
        """Users by their tokens; each may write what begins with the user's name."""
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        """Uploaded large files by their SHA-256."""
        self.requests: list[str] = []
        """Method and path of every request."""
        self.breaks_at: dict[str, int] = {}
        """By the name of a file, at which byte each download of it breaks off."""
        self.stalls_at: dict[str, int] = {}
        """By the name of a file, at which byte a download of it stops until the end."""
        self.stalled = threading.Event()
        """A download has stopped, or a request is not answered."""
        self.refuses: dict[str, int] = {}
        """By the beginning of `METHOD /path`, the status with which it is refused."""
        self.holds: str = ""
        """The beginning of `METHOD /path` of requests that are not answered until the end."""
        self.ended = threading.Event()


@contextmanager
def hub_stand_in(cache: Path) -> Generator[HubStandIn]:
    """A running stand-in, and a folder for what its clients download."""
    server = HubStandIn(cache)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubStandIn  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_GET

    def _handle(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.server.requests.append(f"{self.command} /{path}")
        for start, status in self.server.refuses.items():
            if f"{self.command} /{path}".startswith(start):
                return self._error(status, "", "refused for a test")
        if self.server.holds and f"{self.command} /{path}".startswith(self.server.holds):
            return self._stall()
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        self.user = self.server.users.get(token) if scheme == "Bearer" else None
        if scheme and self.user is None:
            return self._error(401, "", "Invalid credentials in Authorization header")
        words = path.split("/")
        if words[0] == "lfs":
            return self._store(words[1])
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._batch()
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "api/repos/create":
            return self._create()
        if words[:2] == ["api", "models"] and len(words) >= 4:
            return self._api("/".join(words[2:4]), words[4:])
        if "resolve" in words[2:3] and len(words) > 4:
            return self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]))
        self._error(404, "", f"the stand-in does not know {path}")

    # Repositories and who may see them

    def _open(self, name: str, *, write: bool = False) -> Repository | None:
        """The repository if the user may read, or write, it; else None, and the error is sent."""
        repository = self.server.repositories.get(name)
        own = self.user is not None and name.startswith(f"{self.user}/")
        hidden = repository is not None and repository.private and not own
        if repository is None or (hidden and self.user not in repository.readers):
            if self.user is None:
                self._error(401, "", "Invalid username or password.")
            else:
                self._error(404, "RepoNotFound", "Repository not found")
            return None
        if write and not own:
            self._error(403, "", f"You don't have the rights to write to {name}")
            return None
        return repository

    def _commit_of(self, name: str, repository: Repository, revision: str) -> str | None:
        sha = repository.resolve(revision)
        if sha is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or self.user}/{asked['name']}"
        if self.user is None:
            return self._error(401, "", "Invalid username or password.")
        if not name.startswith(f"{self.user}/"):
            return self._error(403, "", f"You don't have the rights to create {name}")
        url = f"{self.server.endpoint}/{name}"
        if name in self.server.repositories:
            return self._json({"error": "You already created this model repo", "url": url}, 409)
        private = asked.get("visibility") == "private"
        self.server.repositories[name] = Repository(private=private)
        self.server.repositories[name].commit({".gitattributes": b""}, message="initial commit")
        return self._json({"url": url, "name": name})

    # What is in them

    def _api(self, name: str, words: list[str]) -> None:
        what = words[0] if words else ""
        repository = self._open(name, write=what in ("preupload", "commit", "branch"))
        if repository is None:
            return None
        if what == "refs":
            refs = {
                kind: [
                    {"name": ref, "ref": f"refs/{part}/{ref}", "targetCommit": sha}
                    for ref, sha in found.items()
                ]
                for kind, part, found in (
                    ("branches", "heads", repository.branches),
                    ("tags", "tags", repository.tags),
                )
            }
            return self._json({**refs, "converts": []})
        if what == "branch":
            branch = "/".join(words[1:])
            if branch in repository.branches:
                return self._json({"error": "Reference already exists"}, 409)
            repository.branches[branch] = repository.branches["main"]
            return self._json({})
        revision = words[1] if len(words) > 1 else "main"
        if (sha := self._commit_of(name, repository, revision)) is None:
            return None
        if what in ("", "revision"):
            files = repository.commits[sha]
            siblings = [
                {"rfilename": path, "size": len(content), "blobId": git_oid(content)}
                | _lfs("sha256", path, content)
                for path, content in files.items()
            ]
            private = repository.private
            return self._json({"id": name, "sha": sha, "siblings": siblings, "private": private})
        if what == "tree":
            return self._tree(repository.commits[sha])
        if what == "preupload":
            return self._preupload(repository.commits[sha])
        if what == "commit":
            return self._commit(name, repository, revision)
        return self._error(404, "", f"the stand-in does not know {what}")

    def _tree(self, files: Files) -> None:
        """All files, and no folders: the client is only asked for whole trees."""
        self._json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
                | _lfs("oid", path, content)
                for path, content in files.items()
            ]
        )

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self._open(name)
        if repository is None or (sha := self._commit_of(name, repository, revision)) is None:
            return
        own = self.user is not None and name.startswith(f"{self.user}/")
        if repository.gated and not own and self.user not in repository.readers:
            status = 401 if self.user is None else 403
            return self._error(status, "GatedRepo", f"Access to model {name} is restricted.")
        content = repository.commits[sha].get(path)
        if content is None:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        self._send_file(path, content, sha)

    def _send_file(self, path: str, content: bytes, sha: str) -> None:
        start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")[0])
        large = path.endswith(LARGE)
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", sha)
        self.send_header("ETag", f'"{sha256(content) if large else git_oid(content)}"')
        if large:
            self.send_header("X-Linked-ETag", f'"{sha256(content)}"')
            self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        file = path.rpartition("/")[2]
        if (stalls := self.server.stalls_at.get(file)) is not None:
            self.wfile.write(content[:stalls])
            self.wfile.flush()
            self._stall()
            return
        breaks = self.server.breaks_at.get(file, len(content))
        self.wfile.write(content[start:breaks])
        self.close_connection = breaks < len(content)

    # How they change

    def _preupload(self, files: Files) -> None:
        answers: list[dict[str, Any]] = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            large, there = path.endswith(LARGE), files.get(path)
            oid = None if there is None else sha256(there) if large else git_oid(there)
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def _batch(self) -> None:
        objects: list[dict[str, Any]] = []
        for asked in json.loads(self.body)["objects"]:
            href = f"{self.server.endpoint}/lfs/{asked['oid']}"
            new = asked["oid"] not in self.server.stored
            objects.append(asked | ({"actions": {"upload": {"href": href}}} if new else {}))
        self._json({"transfer": "basic", "objects": objects})

    def _store(self, oid: str) -> None:
        if sha256(self.body) != oid:
            return self._error(400, "", "the content has another SHA-256")
        self.server.stored[oid] = self.body
        return self._json({})

    def _commit(self, name: str, repository: Repository, branch: str) -> None:
        """Take every line of the NDJSON body, or none."""
        files, message = dict(repository.files(branch)), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.server.stored:
                    return self._error(400, "", f"{value['path']} was not uploaded")
                files[value["path"]] = self.server.stored[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return self._error(400, "", f"the stand-in does not know {item['key']}")
        sha = repository.commit(files, branch, message)
        url = f"{self.server.endpoint}/{name}/commit/{sha}"
        return self._json({"commitOid": sha, "commitUrl": url, "success": True})

    # Answers

    def _stall(self) -> None:
        self.server.stalled.set()
        self.server.ended.wait()
        self.close_connection = True

    def _json(self, value: object, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        said = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"Content-Type": "application/json", **said, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _lfs(key: str, path: str, content: bytes) -> dict[str, Any]:
    """What the hub says of a file that it stores by LFS; `key` is what it calls the hash."""
    if not path.endswith(LARGE):
        return {}
    return {"lfs": {key: sha256(content), "size": len(content), "pointerSize": 130}}
