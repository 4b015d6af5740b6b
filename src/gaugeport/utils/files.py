"""Write files and folders atomically: no reader sees a half-written one, and a crash keeps the old one.

Everything is written under a temporary name in the same folder and renamed at the end.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to ``path`` at the end; after an error, delete it.

    Missing parent folders are made. An existing file is replaced.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder, and rename it to ``path`` at the end; after an error, delete it.

    Raises ``FileExistsError``, before and after filling it, if ``path`` exists.
    """
    check_new(path)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        check_new(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new(path: Path) -> None:
    """Raise ``FileExistsError`` if ``path`` exists."""
    if path.exists():
        raise FileExistsError(f"{path} exists already; it is never overwritten, so name a new folder")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, with sorted keys. Raises ``ValueError`` for NaN and infinities."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def _temporary(path: Path) -> Path:
    """Return a name beside ``path`` that no other process uses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.partial")
