"""Read the English that comes with Python: its language reference, and the docstrings of installed packages.

Sources are parsed, never imported: nothing runs, and the order is the same on every machine.
"""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

PARTS: dict[str, tuple[str, ...]] = {
    "numpy": (".",),
    "scipy": (".",),
    # what users of torch call: its internals are large and their docstrings are notes to maintainers
    "torch": ("nn", "optim", "distributions", "autograd", "sparse", "utils/data", "functional.py"),
}
"""Package -> the folders and files whose docstrings are read."""

LEFT_OUT = {"tests", "testing", "_lib", "_vendored", "_vendor", "_external", "_examples"}
"""Folders that are not read: tests, and copies of other projects."""


def topics() -> list[str]:
    """Return the texts of ``pydoc_data.topics`` (what ``help("for")`` prints), in the order of the file.

    Raises:
        FileNotFoundError: This Python came without ``pydoc_data``.
        ValueError: The file is not the dictionary of texts that it is expected to be.
    """
    path = _folder("pydoc_data", "data=docs reads Python's language reference") / "topics.py"
    for statement in _parsed(path).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "topics":
            return list(ast.literal_eval(statement.value).values())
    raise ValueError(f"{path} assigns no 'topics'; expected a dictionary of texts")


def docstrings() -> Iterator[list[str]]:
    """Yield the docstrings of each file of numpy, scipy and torch (:data:`PARTS`), in the order of the file.

    Files come in the order of a hash of their names, so that any beginning of them is a mixture of the
    packages. A file that this Python cannot parse is skipped.

    Raises:
        FileNotFoundError: A package is not installed, or its sources are not there.
    """
    for _, path in sorted(_files(), key=lambda named: blake2b(named[0].encode()).digest()):
        try:
            module = _parsed(path)
        except SyntaxError:
            continue
        texts = list(_docstrings_of(module))
        if texts:
            yield texts


def _files() -> Iterator[tuple[str, Path]]:
    """Yield every file with its name inside its package's folder, e.g. ``scipy/stats/_binomtest.py``."""
    for package, parts in PARTS.items():
        root = _folder(package, "data=docs reads docstrings of " + ", ".join(PARTS))
        for part in parts:
            path = root / part
            for file in [path] if path.is_file() else path.rglob("*.py"):
                name = file.relative_to(root)
                if not LEFT_OUT & set(name.parts):
                    yield f"{package}/{name.as_posix()}", file


def _folder(package: str, purpose: str) -> Path:
    spec = importlib.util.find_spec(package)  # of a top-level package this imports nothing
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
    if folder is None or not folder.is_dir():
        raise FileNotFoundError(
            f"{purpose}; the sources of {package} are not installed; to use text of your own: "
            "data=text data.path=FILE"
        )
    return folder


def _parsed(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # others' invalid escapes in strings
        return ast.parse(path.read_text(encoding="utf8", errors="replace"))


def _docstrings_of(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Yield the docstrings of a module or class, of its classes and of its functions, dedented."""
    own = ast.get_docstring(node)
    if own:
        yield own
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _docstrings_of(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(child)
            if text:
                yield text
