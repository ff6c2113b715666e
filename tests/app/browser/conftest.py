"""A tiny run with a feature index, opened as the server opens it, and a client of its app."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sparsteer.app.browser.config import ServeConfig
from sparsteer.app.browser.server import create_app
from sparsteer.app.browser.session import Session
from sparsteer.sae import LanguageModel
from sparsteer.steering.features import BuildConfig, build_index

from ...tiny_runs import cache_of_texts, random_topk

N_LATENTS = 48
SILENT = 11
"""A latent that never fires."""
PORT = 8443


@pytest.fixture(scope="session")
def built_run(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny model with an autoencoder and its index; not to be changed."""
    folder = tmp_path_factory.mktemp("browser")
    words = (
        "cats\tand dogs",
        "rain\nand wind",
        "<b>bold</b> & brave",
        "\u0645\u0631\u062d\u0628\u0627",
    )
    texts = [f"{word} {number}" for word in words for number in range(30)]
    cache = cache_of_texts(folder, tiny_model, texts, context_length=48)
    run = folder / "run"
    sae = random_topk(tiny_model, N_LATENTS)
    sae.b_enc.data[SILENT] = -1000.0
    sae.save(run / "sae")
    build_index(
        BuildConfig(run=str(run), cache=str(cache), device="cpu", examples=8),
        model=tiny_model,
    )
    return run


@pytest.fixture
def run(built_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(built_run, tmp_path / "run"))


@pytest.fixture
def session(run: Path) -> Iterator[Session]:
    """The run as the server has it open; the language model is read when first asked for."""
    opened = Session(ServeConfig(run=str(run), port=PORT, device="cpu"), lambda sentence: None)
    yield opened
    if opened.model_status == "loading":  # a process that ends under it would abort
        _ = opened.loaded
    opened.close()


@pytest.fixture
def client(session: Session) -> Iterator[TestClient]:
    """A browser that has opened the address with the token."""
    app = create_app(session, port=PORT)
    base = f"http://127.0.0.1:{PORT}"
    with TestClient(app, base_url=base, headers={"Origin": base}) as browser:
        browser.cookies.set(f"sparsteer-token-{PORT}", session.token)
        yield browser
