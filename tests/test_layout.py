"""The layers: imports go one way, packages are all listed, nothing heavy is imported unasked."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["kernels", "sae", "training", "steering", "app", "cli"]
HEAVY = ["transformers", "transformer_lens", "datasets", "wandb", "matplotlib", "numba"]


def listed_packages() -> dict[str, str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(settings["packages"]) == set(settings["package-dir"])
    return settings["package-dir"]


def source_files(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def imported_layers(path: Path) -> set[str]:
    """The layers that a file names, absolutely or relatively."""
    depth = len(path.relative_to(ROOT).parts)
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("sparsteer.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == depth and node.module:
            names.add(node.module)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.removeprefix("sparsteer."))
    return {name.split(".")[0] for name in names} & set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_go_one_way(layer: str) -> None:
    above = set(LAYERS[LAYERS.index(layer) + 1 :])
    files = source_files(layer)
    assert files
    for path in files:
        assert not imported_layers(path) & above, f"{path} imports a layer above its own"


def test_the_direction_check_sees_relative_imports() -> None:
    assert "kernels" in imported_layers(ROOT / "sae" / "autoencoder.py")
    assert "sae" in imported_layers(ROOT / "training" / "trainer.py")


def name_of(path: Path) -> str:
    """The module of a source file, without `sparsteer.` before it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module but for those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from (inner for branch in node.orelse for inner in ast.walk(branch))
        else:
            yield node
            yield from running(node)


def imported_modules(source: str, package: str, modules: Collection[str]) -> set[str]:
    """Which of the modules a source text in the package imports, be it in a function."""
    found: set[str] = set()
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("sparsteer.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            above = above[: len(above) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])]).removeprefix("sparsteer.")
            found |= {base, *(f"{base}.{alias.name}".removeprefix(".") for alias in node.names)}
    return found & set(modules)


def test_no_import_closes_a_circle() -> None:
    """Not even one in a function: what two modules need of each other belongs into a third."""
    paths = {name_of(path): path for layer in LAYERS for path in source_files(layer)}
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        package = ".".join(path.parent.relative_to(ROOT).parts)
        graph[name] = imported_modules(path.read_text(), package, paths)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("imports in a circle: " + " <- ".join(error.args[1]))


def test_the_circle_check_sees_functions_but_not_type_checkers() -> None:
    modules = {"sae", "sae.a", "sae.b", "sae.rooms.c", "sae.rooms.d", "cli.e", "sae.f"}
    source = """
from typing import TYPE_CHECKING
from . import a, nothing
if TYPE_CHECKING:
    from .rooms.d import D
else:
    from .f import F
def later():
    from ..cli import e
    import sparsteer.sae.b
    if later:
        from .rooms.c import C
"""
    found = imported_modules(source, "sae", modules)
    assert found == {"sae", "sae.a", "sae.b", "sae.rooms.c", "cli.e", "sae.f"}


def test_every_package_is_listed() -> None:
    with_code = {
        "sparsteer." + ".".join(path.parent.relative_to(ROOT).parts)
        for layer in LAYERS
        for path in source_files(layer)
    }
    assert with_code | {"sparsteer"} == set(listed_packages())


def test_typing_links_cover_the_layers() -> None:
    if not (ROOT / ".typing").exists():
        pytest.skip("an sdist holds no links")
    there = (ROOT / ".typing" / "sparsteer").iterdir()
    links = {link.name: link.resolve() for link in there if link.name != "__pycache__"}
    own = {file.name: file for file in (ROOT / "package").glob("*.py")}
    assert links == {layer: ROOT / layer for layer in LAYERS} | own


def test_kernels_is_a_namespace_folder() -> None:
    """With an __init__.py it would shadow the `kernels` library of other people here."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    spec = find_spec("kernels")
    assert spec is None or spec.origin is None or ROOT not in Path(spec.origin).parents


def test_the_package_tells_its_version_and_runs_as_a_module() -> None:
    import sparsteer

    assert sparsteer.__version__ == version("sparsteer")
    assert "__version__" in dir(sparsteer)
    with pytest.raises(AttributeError, match="no attribute 'versoin'"):
        getattr(sparsteer, "versoin")  # noqa: B009 - a constant name is what is tested
    words = [sys.executable, "-m", "sparsteer", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == f"sparsteer {version('sparsteer')}\n"


PROMISED = """SparseAutoencoder TopKConfig Trainer TrainerConfig train TrainConfig evaluate
LanguageModel Intervention generate FeatureIndex score select""".split()


def test_the_front_door_has_the_promised_names_and_no_torch() -> None:
    import sparsteer

    assert set(PROMISED) <= set(sparsteer.__all__) <= set(dir(sparsteer))
    assert all(callable(getattr(sparsteer, name)) for name in PROMISED)
    code = "import sparsteer, sys\nprint(sparsteer.__version__, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == [version("sparsteer"), "False"]


@pytest.mark.parametrize(
    "package",
    ["", ".sae", ".training", ".steering", ".steering.features", ".steering.selection"],
)
def test_dir_names_what_a_package_exports(package: str) -> None:
    module = import_module(f"sparsteer{package}")
    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "import sparsteer.kernels.encode, sparsteer.kernels.top_afa",
        "import sparsteer.sae; sparsteer.sae.SparseAutoencoder",
        "import sparsteer.sae.losses, sparsteer.sae.metrics, sparsteer.sae.common.tensor_files",
        "import sparsteer.training.trainer, sparsteer.training.checkpoint",
    ],
)
def test_core_imports_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(*(n for n in {HEAVY} if n in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "module",
    ["sae.config", "sae.common.errors", "sae.common.files", "training.config", "sae", "training"],
)
def test_configurations_import_no_torch(module: str) -> None:
    code = f"import sparsteer.{module}, sys\nprint('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
