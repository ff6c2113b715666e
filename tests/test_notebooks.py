"""The notebooks run from their first cell to their last."""

import json
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
JOBS = ("pick", "select", "steer", "train")


@pytest.fixture
def run_notebook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of `docs/run_notebooks.py`."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))  # pyright: ignore[reportUnknownMemberType] - untyped
    module: Any = import_module("run_notebooks")
    return module.run_notebook


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> dict[str, object]:
    """Values of the notebooks' parameters with which they take seconds: a random model of width 32,
    texts of made-up words."""
    source = random.Random(1)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 7))) for _ in range(200)]
    folder = tmp_path_factory.mktemp("texts")
    texts = folder / "texts.jsonl"
    rows = folder / "rows.jsonl"
    texts.write_text(
        "".join(
            json.dumps({"text": " ".join(source.choices(words, k=40))}) + "\n" for _ in range(80)
        )
    )
    rows.write_text(
        "".join(
            json.dumps(
                {
                    "group": group,
                    "instruction": " ".join(source.choices(words, k=9)),
                    "output": " ".join(source.choices(words, k=5)),
                }
            )
            + "\n"
            for group in ("stem", "code")
            for _ in range(30)
        )
    )
    return {
        "MODEL": str(tiny_model_folder),
        "DATASET": str(texts),
        "TOKENS": 6_000,
        "TRAINING_TOKENS": 4_096,
        "N_LATENTS": 96,
        "OTHER_K": (8, 64),
        "NEW_TOKENS": 4,
        "INSTRUCTIONS": str(rows),
    }


def code_cells(path: Path) -> list[Any]:
    notebook: Any = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def parameters(path: Path) -> set[str]:
    """The names that the first cell of code assigns."""
    found: dict[str, object] = {}
    exec("".join(code_cells(path)[0]["source"]), found)
    return {name for name in found if name.isupper()}


def printed(notebook: Any) -> str:
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )


def test_there_is_one_for_each_job() -> None:
    assert tuple(path.stem for path in NOTEBOOKS) == JOBS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_was_run_and_is_small(path: Path) -> None:
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert path.stat().st_size < 200_000
    assert str(Path.home()) not in path.read_text(encoding="utf-8"), "a path of this machine"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_with_a_small_model(
    path: Path, run_notebook: Any, small: dict[str, object], tmp_path: Path
) -> None:
    settings = {name: value for name, value in small.items() if name in parameters(path)}
    notebook = run_notebook(path, tmp_path, settings)
    assert "held out" in printed(notebook) if path.stem == "train" else printed(notebook)
    assert (tmp_path / "work/k32/sae/sae.safetensors").exists()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where each goes on with the activations and the autoencoder of the one before."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.download
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("user_cache")
def test_it_runs_with_the_default_model(path: Path, run_notebook: Any, shared: Path) -> None:
    assert printed(run_notebook(path, shared))


def test_other_parameters_are_refused(run_notebook: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="no parameter NO_SUCH"):
        run_notebook(NOTEBOOKS[0], tmp_path, {"NO_SUCH": 1})
