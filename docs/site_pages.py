"""What mkdocs adds to the pages of docs/ when `make docs` builds the site.

Pages that lie elsewhere in the repository, the notebooks, and the Python API of every package. The
links between them are those of the repository, and are turned into those of the site.
"""

import ast
import atexit
import json
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGES = ("sae", "training", "steering", "app", "kernels")
MEASUREMENTS = "benchmarks/results"
WIDE = ("comparison.md",)
"""Pages whose tables need the whole width."""
_LINK = re.compile(
    r"(?P<fence>^```.*?^```$)|(?<=\]\()(?P<target>[^)\s#]+)", re.MULTILINE | re.DOTALL
)


@event_priority(100)  # before mkdocstrings reads where the package is
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that are made here into the navigation, in place of API and MEASUREMENTS."""
    settings: Any = config
    python = settings.plugins["mkdocstrings"].config["handlers"]["python"]
    python["paths"] = [_importable_package()]
    made = {
        "API": ["api/index.md", *(f"api/{package}.md" for package in _packages())],
        "MEASUREMENTS": [
            page for page in _pages_elsewhere() if re.match(rf"{MEASUREMENTS}/.+\.md$", page)
        ],
    }
    pages = [page for section in settings.nav for pages in section.values() for page in pages]
    for page in pages:
        if not isinstance(page, str):
            ((title, path),) = page.items()
            page[title] = made.get(path, path)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    for path, page in _pages_elsewhere().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        text = notebook_page(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
    files.append(File.generated(config, "api/index.md", content=_front_page()))
    for package in _packages():
        files.append(File.generated(config, f"api/{package}.md", content=_package_page(package)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    moved = _pages_elsewhere() | {
        f"docs/notebooks/{path.name}": f"notebooks/{path.stem}.md"
        for path in (ROOT / "docs/notebooks").glob("*.ipynb")
    }
    homes = {new: old for old, new in moved.items()}
    here = page.file.src_uri
    if here in WIDE:
        page.meta["hide"] = ["navigation", "toc"]
    source = posixpath.dirname(homes.get(here, f"docs/{here}"))

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        if target is None or ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(source, target))
        new = moved.get(path, path.removeprefix("docs/"))
        return posixpath.relpath(new, posixpath.dirname(here) or ".")

    return _LINK.sub(link, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Copy the Markdown of docs/ beside the pages, for readers that are programs (llms.txt)."""
    for path in (ROOT / "docs").rglob("*.md"):
        copy = Path(config.site_dir) / path.relative_to(ROOT / "docs")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())


def _pages_elsewhere() -> dict[str, str]:
    """Path in the repository -> path in the site, of the pages and pictures outside docs/."""
    moved = {
        "README.md": "index.md",
        "CHANGELOG.md": "CHANGELOG.md",
        "CONTRIBUTING.md": "CONTRIBUTING.md",
    }
    for folder, ending in ((MEASUREMENTS, "*.md"), (MEASUREMENTS, "*.svg"), ("examples", "*.py")):
        for path in sorted((ROOT / folder).glob(ending)):
            name = path.relative_to(ROOT).as_posix()
            moved[name] = name
    return moved


def notebook_page(path: Path) -> str:
    """The notebook as Markdown: its texts, and its cells, each above what it printed or drew."""
    notebook: Any = json.loads(path.read_text(encoding="utf-8"))
    parts: list[str] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        shown = "".join(_output(output) for output in cell["outputs"])
        if shown:
            parts.append(f'<div class="cell-output" markdown>\n\n{shown}\n</div>')
    return "\n\n".join(parts) + "\n"


def _output(output: Any) -> str:
    data = output.get("data", {"text/plain": output.get("text", [])})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        return f"![What the cell draws](data:image/png;base64,{picture})\n"
    text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(data["text/plain"]))
    return f"```text\n{text.rstrip()}\n```\n"


# The Python API, from the docstrings.


def _importable_package() -> str:
    """A folder with the package as it is imported, for mkdocstrings, which reads it as files.

    kernels/ has no __init__.py, and a folder without one within a package is passed over there.
    """
    folder = Path(tempfile.mkdtemp(prefix="sparsteer-docs-"))
    atexit.register(shutil.rmtree, folder)
    package = folder / "sparsteer"
    shutil.copytree(ROOT / "package", package)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, package / name)
    for inner in package.rglob("*/"):
        (inner / "__init__.py").touch()
    return str(folder)


def _packages() -> list[str]:
    """Dotted names of every package, each after the one it lies in."""
    found: list[str] = []
    for top in PACKAGES:
        folders = {path.parent for path in (ROOT / top).rglob("*.py")}
        found += [".".join(folder.relative_to(ROOT).parts) for folder in sorted(folders)]
    return [f"sparsteer.{name}" for name in found]


def _exported(init: Path) -> dict[str, str]:
    """Each name that a package exports lazily, and the module it comes from."""
    return {
        alias.name: line.module or ""
        for node in ast.parse(init.read_text(encoding="utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for line in node.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
        if alias.name != "__version__"
    }


def _front_page() -> str:
    """The names of `import sparsteer`, by the package they come from."""
    names = _exported(ROOT / "package/__init__.py")
    parts = [
        "# sparsteer\n",
        "The names that most programs need; each is loaded when it is first used, so that "
        "`import sparsteer` imports no torch. The pages below have everything else.\n",
    ]
    for home in dict.fromkeys(names.values()):
        parts.append(f"## From {home}\n")
        parts += [f"::: sparsteer.{name}\n" for name, module in names.items() if module == home]
    return "\n".join(parts)


_MODULE = """\
::: {name}
    options:
      heading_level: 2
      show_root_full_path: true
      show_symbol_type_heading: false
      members: {members}
"""


def _package_page(package: str) -> str:
    """Everything public of a package's modules that the front page does not have."""
    folder = ROOT.joinpath(*package.split(".")[1:])
    init = folder / "__init__.py"
    parts = [f"# {package}\n"]
    if init.exists():
        parts.append(f"{ast.get_docstring(ast.parse(init.read_text(encoding='utf-8')))}\n")
    for path in sorted(folder.glob("*.py")):
        members = list(_public(path))
        if path.stem.startswith("_") or not members:
            continue
        shown = [name for name in members if name not in _exported(ROOT / "package/__init__.py")]
        parts.append(_MODULE.format(name=f"{package}.{path.stem}", members=json.dumps(shown)))
        there = [name for name in members if name not in shown]
        links = ", ".join(f"[{name}](index.md#sparsteer.{name})" for name in there)
        if there:
            parts.append(f"\nIn `sparsteer` itself: {links}.\n")
    return "\n".join(parts)


def _public(path: Path) -> Iterator[str]:
    """What a module defines under a public name and describes."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if not node.name.startswith("_") and ast.get_docstring(node):
                yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(following, ast.Expr):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and not target.id.startswith("_"):
                yield target.id
