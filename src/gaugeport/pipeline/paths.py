"""Find the project's data files: beside ``src`` in a checkout, inside the package in a wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parents[1]


def data_dir(name: str) -> Path:
    """Return the folder ``conf`` or ``experiments``.

    Raises:
        FileNotFoundError: The installation lacks it.
    """
    for folder in (PACKAGE / name, PACKAGE.parent.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"this installation of gaugeport has no {name}/ folder; install the wheel or a checkout"
    )


def experiment_module(name: str) -> ModuleType:
    """Load the module ``experiments/<name>.py``: TITLE, tabulate(records), pivot(table), plot(table).

    Raises:
        FileNotFoundError: There is no such module.
    """
    path = data_dir("experiments") / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"gaugeport_experiment_{name}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise FileNotFoundError(f"no experiment module at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_number(table_id: str) -> tuple[str, int]:
    """Return the sort key of a table id: a2 before a10."""
    return table_id[0], int(table_id[1:])
