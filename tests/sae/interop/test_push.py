"""Autoencoders onto the hub: both layouts, only what changed, all or nothing, and who may."""

from pathlib import Path

import pytest
import torch

from sparsteer.sae import (
    BatchTopKConfig,
    InputError,
    Origin,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.sae.interop.push import SAELENS, push_folder, write_layouts

from ...hub_repository import Repository
from ...hub_stand_in import HubStandIn
from ..random_sae import random_sae

NAME = "owner/saes"
NATIVE = {"config.json", "sae.safetensors"}
BOTH = NATIVE | {f"saelens/{n}" for n in ("cfg.json", "sae_weights.safetensors", "SHA256SUMS")}


@pytest.fixture
def owner(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> HubStandIn:
    """The hub, with its owner logged in."""
    monkeypatch.setenv("HF_TOKEN", "token-of-owner")
    return hub


def files_of(hub: HubStandIn, revision: str = "main") -> set[str]:
    """The names of what the repository holds, without what the hub makes itself."""
    return set(hub.repositories[NAME].files(revision)) - {".gitattributes"}


def refused(folder: Path, *, private: bool = False) -> str:
    """The one sentence with which pushing is refused."""
    with pytest.raises(InputError) as caught:
        push_folder(folder, NAME, message="m", private=private)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to push."""
    path = tmp_path / "pushed"
    path.mkdir()
    write_layouts(random_sae(TopKConfig(13, 57, 5)), path)
    return path


def test_pushed_and_loaded_again(owner: HubStandIn) -> None:
    sae, x = random_sae(BatchTopKConfig(13, 57, 5)), torch.randn(31, 13)
    plan = sae.push_to_hub(NAME, dry_run=True)
    assert owner.requests == [] and plan.commit is None and set(plan.files) == BOTH
    done = sae.push_to_hub(NAME, private=True, commit_message="Say why")
    assert done.files == plan.files and set(done.changed) == files_of(owner) == BOTH
    repository = owner.repositories[NAME]
    assert repository.private and repository.messages[-1] == "Say why"
    assert done.commit == repository.branches["main"]
    assert done.url == f"{owner.endpoint}/{NAME}"
    sae.push_to_hub(NAME, revision="later")
    for revision in (None, done.commit, "later"):
        loaded = SparseAutoencoder.from_pretrained(NAME, revision=revision)
        assert loaded.config == sae.config
        assert torch.equal(loaded.encode(x).dense(57), sae.encode(x).dense(57))
    saelens = SparseAutoencoder.from_pretrained(NAME, subfolder=SAELENS)
    torch.testing.assert_close(saelens(x), sae(x))


def test_what_saelens_cannot_hold_is_left_out(owner: HubStandIn, tmp_path: Path) -> None:
    random_sae(TopAFAConfig(13, 57)).push_to_hub(NAME)
    assert files_of(owner) == NATIVE
    tmp_path.joinpath("top").mkdir()
    reason = write_layouts(random_sae(TopAFAConfig(13, 57)), tmp_path / "top")
    assert reason == "activation is top_afa, for which SAELens has no equal"


def test_no_path_of_this_machine_gets_out(tmp_path: Path) -> None:
    sae = random_sae(TopKConfig(13, 57, 5))
    home = tmp_path / "someone"
    model, corpus = str(home / "models" / "tiny.gguf"), str(home / "texts" / "*.jsonl")
    sae.origin = Origin(
        model=model, site="blocks.1.hook_resid_post", weights_hash="0", dataset=corpus
    )
    write_layouts(sae, tmp_path)
    for path in tmp_path.rglob("*.*"):
        assert b"someone" not in path.read_bytes()
    origin = SparseAutoencoder.load(tmp_path).origin
    assert origin is not None and (origin.model, origin.dataset) == ("./tiny.gguf", "./*.jsonl")
    assert sae.origin.model == model


def test_a_second_push_sends_what_changed(owner: HubStandIn, folder: Path) -> None:
    (folder / "features").mkdir()
    (folder / "features" / "a.npy").write_bytes(b"1")
    push_folder(folder, NAME, message="first")
    owner.repositories[NAME].commit(owner.repositories[NAME].files() | {"mine.md": b"kept"})
    stored = dict(owner.stored)
    assert push_folder(folder, NAME, message="same").changed == ()
    assert owner.repositories[NAME].messages[-1] != "same"
    (folder / "features" / "a.npy").unlink()
    (folder / "README.md").write_text("card")
    done = push_folder(folder, NAME, message="second")
    assert done.changed == ("README.md", "features/a.npy")
    assert files_of(owner) == {*BOTH, "README.md", "mine.md"} and owner.stored == stored
    assert done.commit == owner.repositories[NAME].branches["main"]


def test_who_may_not_push(hub: HubStandIn, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "`hf auth login`, or set HF_TOKEN to a token that may write" in refused(folder)
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", "worn-out")
    assert "does not accept the token in use" in refused(folder)
    monkeypatch.setenv("HF_TOKEN", "token-of-guest")
    for there in (False, True):
        assert f"may not write to '{NAME}'" in refused(folder)
        assert NAME in hub.repositories if there else NAME not in hub.repositories
        hub.repositories[NAME] = Repository()
        hub.repositories[NAME].commit({})
    with pytest.raises(InputError, match="write OWNER/NAME, with your name on the hub"):
        SparseAutoencoder(TopKConfig(13, 57, 5)).push_to_hub("no-owner")


def test_private_is_not_taken_for_granted(owner: HubStandIn, folder: Path) -> None:
    push_folder(folder, NAME, message="m")
    assert "is public; make it private in its settings there" in refused(folder, private=True)
    owner.repositories[NAME].private = True
    assert push_folder(folder, NAME, message="m", private=True).changed == ()


@pytest.mark.slow
@pytest.mark.parametrize("at", ["PUT /lfs/", "POST /api/models/owner/saes/commit"])
def test_a_push_that_breaks_off_changes_nothing(
    at: str, owner: HubStandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_folder(folder, NAME, message="first")
    before = owner.repositories[NAME].branches["main"]
    write_layouts(random_sae(TopKConfig(13, 60, 5)), empty := folder / "new")
    assert SAELENS in {item.name for item in empty.iterdir()}

    def no_sleep(seconds: float) -> None:
        del seconds

    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", no_sleep)
    owner.refuses[at] = 503
    message = refused(empty)
    assert "is out of order (status 503); give the same command again" in message
    assert owner.repositories[NAME].branches["main"] == before
    owner.refuses[at] = 400
    assert "refused" in refused(empty)
    owner.refuses.clear()
    push_folder(empty, NAME, message="second")
    assert SparseAutoencoder.from_pretrained(NAME).config.n_latents == 60


def test_without_the_hub_nothing_is_pushed(
    owner: HubStandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert refused(folder).startswith("HF_HUB_OFFLINE forbids to ask the hub; give the same")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert refused(folder).startswith("http://127.0.0.1:9 cannot be reached (")
