"""Autoencoders from the hub: what is taken, at which commit, and what is said where it fails."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from sparsteer.sae import InputError, SparseAutoencoder, TopKConfig
from sparsteer.sae.interop.hub import HubSource, fetch_from_hub, is_hub_source, parse_hub_source

from ...hub_repository import Files, Repository
from ...hub_stand_in import HubStandIn
from ..random_sae import random_sae

NAME = "owner/saes"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The files of an autoencoder, and some beside it that nobody needs."""
    random_sae(TopKConfig(13, 57, 5)).save(tmp_path / "saved")
    saved = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    return {**saved, "README.md": b"text", "optimizer_0.safetensors": b"0" * 100, "a.bin": b"1"}


@pytest.fixture
def repository(hub: HubStandIn, files: Files) -> Repository:
    """A repository with an autoencoder at its top and in two folders."""
    found = hub.repositories[NAME] = Repository()
    inside = {f"layer_{i}/wide/{name}": file for i in (3, 12) for name, file in files.items()}
    found.commit({**files, **inside}, message="first")
    return found


def refused(source: str) -> str:
    """The one sentence with which the source is refused."""
    with pytest.raises(InputError) as caught:
        fetch_from_hub(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("source", "repository", "subfolder", "revision"),
    [
        ("hub:a/b", "a/b", None, None),
        ("hub:a/b/", "a/b", None, None),
        ("hub:a.1/b-2/c/d.pt", "a.1/b-2", "c/d.pt", None),
        ("hub:a/b@v1.0", "a/b", None, "v1.0"),
        ("hub:a/b/c d/e/@refs/pr/1", "a/b", "c d/e", "refs/pr/1"),
    ],
)
def test_sources(source: str, repository: str, subfolder: str | None, revision: str | None) -> None:
    found = parse_hub_source(source)
    assert found == HubSource(repository=repository, subfolder=subfolder, revision=revision)
    assert is_hub_source(source) and parse_hub_source(str(found)) == found


@pytest.mark.parametrize(
    "source", ["hub:", "hub:a", "hub:a/", "hub:a/b/../c", "hub:a/b//c", "hub:a/b@", "hub:./a"]
)
def test_other_forms_are_refused(source: str) -> None:
    assert "write hub:OWNER/NAME[/SUBFOLDER][@REVISION]" in refused(source)
    assert not is_hub_source(Path("hub:a/b")) and not is_hub_source("runs/a")


def test_only_the_autoencoder_of_the_named_folder_is_taken(repository: Repository) -> None:
    said: list[str] = []
    found = fetch_from_hub(f"hub:{NAME}/layer_3/wide", progress=said.append)
    assert sorted(item.name for item in found.path.iterdir()) == ["config.json", "sae.safetensors"]
    assert (found.revision, found.subfolder) == (repository.branches["main"], "layer_3/wide")
    assert found.pinned == f"hub:{NAME}/layer_3/wide@{found.revision}"
    assert [path.name for path in found.path.parents[1].iterdir()] == ["layer_3"]
    assert len(said) == 1 and said[0].startswith("downloading ") and NAME in said[0]
    assert fetch_from_hub(found.pinned, progress=said.append) == found and len(said) == 1


def test_loading_gives_the_same_autoencoder(repository: Repository) -> None:
    torch.default_generator.manual_seed(0)
    saved, x = random_sae(TopKConfig(13, 57, 5)), torch.randn(7, 13)
    for source in (f"hub:{NAME}", f"hub:{NAME}/layer_12/wide@{repository.branches['main']}"):
        loaded = SparseAutoencoder.load(source)
        assert torch.equal(loaded.encode(x).dense(57), saved.encode(x).dense(57))


def test_a_pickle_is_only_taken_where_there_is_nothing_else(
    hub: HubStandIn, repository: Repository
) -> None:
    both = {"d/ae.pt": b"1", "d/ae.safetensors": b"2", "d/config.json": b"{}"}
    repository.commit({**both, "p/ae.pt": b"3", "p/scheduler.pt": b"4", "n/params.npz": b"5"})

    def taken(folder: str) -> list[str]:
        return sorted(item.name for item in fetch_from_hub(f"hub:{NAME}/{folder}").path.iterdir())

    assert taken("d") == ["ae.safetensors", "config.json"]
    assert (taken("p"), taken("n")) == (["ae.pt"], ["params.npz"])
    assert not any("GET" in asked and "d/ae.pt" in asked for asked in hub.requests)


def test_a_file_by_its_name_comes_with_its_configuration(repository: Repository) -> None:
    repository.commit({"d/ae.pt": b"1", "d/config.json": b"{}", "d/b.pt": b"2", "config.json": b""})
    found = fetch_from_hub(f"hub:{NAME}/d/ae.pt")
    assert found.path.read_bytes() == b"1"
    assert sorted(item.name for item in found.path.parent.iterdir()) == ["ae.pt", "config.json"]


def test_a_layout_may_ask_for_other_files(repository: Repository) -> None:
    repository.commit(
        {"w/layer_0.safetensors": b"", "w/layer_1.safetensors": b"1", "w/c/x.txt": b""}
    )
    found = fetch_from_hub(f"hub:{NAME}/w", patterns=["layer_1.*", "*/*.txt"])
    inside = [path for path in found.path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in inside) == ["layer_1.safetensors", "x.txt"]


def test_a_missing_subfolder_names_the_nearest(repository: Repository) -> None:
    message = refused(f"hub:{NAME}/layer_13/wide")
    assert message.startswith(f"hub:{NAME} has no 'layer_13/wide'; name one of its folders")
    assert message.endswith(": layer_3/wide, layer_12/wide")
    repository.commit({f"layer_{i}/a.safetensors": b"" for i in range(40)} | {"config.json": b"{}"})
    message = refused(f"hub:{NAME}")
    assert message.startswith(f"hub:{NAME} holds no file of an autoencoder")
    assert message.endswith(" and 37 more") and f"hub:{NAME}/FOLDER" in message
    repository.commit({"README.md": b""})
    assert "name another repository" in refused(f"hub:{NAME}")


def test_a_missing_repository(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused("hub:owner/none")
    assert "shows nobody a repository 'owner/none'" in message
    assert "`hf auth login`, or set HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "token-of-guest")
    assert "no repository 'owner/none' that the token in use may read" in refused("hub:owner/none")
    monkeypatch.setenv("HF_TOKEN", "worn-out")
    assert "does not accept the token in use" in refused("hub:owner/none")
    assert "hub has no repository 'a/b--c'" in refused("hub:a/b--c")


def test_a_hub_that_limits_requests(hub: HubStandIn) -> None:
    hub.refuses["GET /api"] = 429
    assert "too many requests in too short a time; wait" in refused("hub:owner/saes")


def test_a_missing_revision_names_those_there_are(repository: Repository) -> None:
    repository.tags["v1.0"] = repository.branches["main"]
    assert refused(f"hub:{NAME}@v1").endswith("has no revision 'v1'; it has v1.0, main")
    assert fetch_from_hub(f"hub:{NAME}@v1.0").revision == repository.branches["main"]


def test_a_private_repository_opens_with_a_token(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.private = True
    assert "if it is private, log in" in refused(f"hub:{NAME}")
    monkeypatch.setenv("HF_TOKEN", "token-of-guest")
    assert "that the token in use may read" in refused(f"hub:{NAME}")
    repository.readers.add("guest")
    assert fetch_from_hub(f"hub:{NAME}").path.is_dir()


def test_a_gated_repository_names_the_page(
    hub: HubStandIn, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.gated = True
    page = f"{hub.endpoint}/{NAME}"
    message = refused(f"hub:{NAME}")
    assert message.startswith(f"{page} is gated; accept its conditions") and "HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "token-of-guest")
    message = refused(f"hub:{NAME}")
    assert message.startswith(f"{page} is gated") and "ask for it on that page" in message
    repository.readers.add("guest")
    assert fetch_from_hub(f"hub:{NAME}").path.is_dir()


@pytest.mark.parametrize("why", ["HF_HUB_OFFLINE", "no connection", "down"])
def test_without_the_hub_what_is_cached_is_used(
    why: str, hub: HubStandIn, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch_from_hub(f"hub:{NAME}/layer_3/wide")
    repository.commit({"layer_3/wide/config.json": b"new"}, message="second")
    if why == "HF_HUB_OFFLINE":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        said = "HF_HUB_OFFLINE forbids"
    elif why == "down":
        hub.refuses["GET /api"] = 503
        said = "is out of order (status 503)"
    else:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        said = "http://127.0.0.1:9 cannot be reached ("
    for source in (f"hub:{NAME}/layer_3/wide", first.pinned):
        assert fetch_from_hub(source) == first
    for source in (f"hub:{NAME}/layer_12/wide", f"hub:{NAME}@v2", "hub:owner/other"):
        message = refused(source)
        assert said in message and "is not in its cache" in message
        assert message.endswith("fetch it once where the hub can be reached")
    assert "layer_12/wide" in refused(f"hub:{NAME}/layer_13/wide")


def test_a_hub_that_does_not_answer_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, hub: HubStandIn
) -> None:
    """Something that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.2)
        assert f"{endpoint} cannot be reached (timed out)" in refused(f"hub:{NAME}")


def test_a_download_that_breaks_off_leaves_whole_files(
    hub: HubStandIn, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_sleep(seconds: float) -> None:
        del seconds

    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", no_sleep)
    hub.breaks_at["sae.safetensors"] = 1000
    assert "broke off" in refused(f"hub:{NAME}")
    cache = Path(hub.environment["HF_HUB_CACHE"])
    assert [path.name for path in cache.rglob("snapshots/*/*")] in ([], ["config.json"])
    assert not list(cache.rglob("*.incomplete"))
    hub.breaks_at.clear()
    assert SparseAutoencoder.load(f"hub:{NAME}").config.n_latents == 57


def test_a_disk_too_small_is_said_before_anything_is_downloaded(
    hub: HubStandIn, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free_disk(path: Path) -> int:
        del path
        return 1500

    monkeypatch.setattr("sparsteer.sae.fetching.hub.free_disk", free_disk)
    message = refused(f"hub:{NAME}")
    assert "1.5 kB left; free some, or set HF_HOME" in message
    assert not any("resolve" in asked for asked in hub.requests)


def test_a_full_disk_names_the_cache(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(OSError, match="No space left") as caught:
        fetch_from_hub(f"hub:{NAME}")
    assert str(caught.value.filename).endswith("hub-cache")


@pytest.mark.slow
def test_killed_in_the_middle_nothing_half_is_taken(
    hub: HubStandIn, repository: Repository
) -> None:
    """A program of its own, which the hub's address reaches through the environment."""
    program = f"import sparsteer; sparsteer.SparseAutoencoder.load('hub:{NAME}')"
    hub.stalls_at["sae.safetensors"] = 2000
    environment = {**os.environ, **hub.environment}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as process:
        assert hub.stalled.wait(60)
        process.kill()
    hub.stalls_at.clear()
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=offline, capture_output=True, check=False
    )
    assert b" of owner/saes is not in its cache" in done.stderr
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    subprocess.run([sys.executable, "-c", program], env=offline, check=True)
