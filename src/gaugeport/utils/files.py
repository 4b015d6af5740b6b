"""Write files and folders atomically: no reader sees a half-written one, and a crash keeps the old one.

Everything is written under a temporary name in the same folder and renamed at the end. Those whom the
user's umask allows can read it: safetensors by itself writes for the owner alone.
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

    Missing parent folders are made. An existing file or link is replaced. Raises ``FileExistsError`` for
    anything else, such as a folder or a device.
    """
    if path.exists() and not path.is_file() and not path.is_symlink():
        raise FileExistsError(f"{path} is {'a folder' if path.is_dir() else 'not a file'}; name a file")
    temporary = _temporary(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        if path.suffix == ".safetensors":
            temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder, and rename it to ``path`` at the end; after an error, delete it.

    Raises ``FileExistsError``, before and after filling it, if ``path`` is a file or a filled folder. With
    ``force`` that is replaced, once the new folder is complete.
    """
    check_new(path, force)
    temporary = _temporary(path)
    temporary.mkdir()
    replaced = temporary.with_suffix(".replaced")
    try:
        yield temporary
        follow_umask(temporary)
        check_new(path, force)
        if path.exists():
            os.replace(path, replaced)
        os.replace(temporary, path)
    finally:
        if replaced.exists() and not path.exists():
            os.replace(replaced, path)
        for left in (temporary, replaced):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def follow_umask(folder: Path) -> None:
    """Give ``.safetensors`` files below a new folder that are of mode 0600 the mode of a new file."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*.safetensors"):
        if file.is_file() and not file.is_symlink() and file.stat().st_mode & 0o777 == 0o600:
            file.chmod(mode)


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` replaced by the home folder; one of a user that is not known stays."""
    return Path(os.path.expanduser(path))


def real(path: Path) -> Path:
    """Return where a path leads when links are followed, as ``resolve`` does, which raises for loops."""
    return Path(os.path.realpath(path))


def check_new(path: Path, force: bool = False) -> None:
    """Raise ``FileExistsError`` if something lies at a path that may not be replaced.

    That is what :func:`check_replaceable` refuses, without ``force`` a file or a filled folder, and with it
    the home folder, the working folder and those around them.
    """
    check_replaceable(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not force:
        raise FileExistsError(
            f"{path} exists already; it is not overwritten: name a new one, or pass force=True"
        )
    kept = [real(expanded("~")), Path.cwd()]
    if path.is_dir() and any(real(path) in (k, *k.parents) for k in kept):
        raise FileExistsError(f"{path} holds the home folder or the working folder; name a new one")


def check_replaceable(path: Path) -> None:
    """Raise ``FileExistsError`` if a link, a device or a pipe lies at a path, or no folder in front of it."""
    if path.is_symlink():
        raise FileExistsError(f"{path} is a link; name a new folder or file")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FileExistsError(f"{path} is neither a file nor a folder; name a new one")
    around = next((p for p in path.parents if p.exists() or p.is_symlink()), path)
    if around != path and not around.is_dir():
        raise FileExistsError(f"{path} cannot be made: {around} is no folder")


def check_apart(out: Path, *sources: Path) -> None:
    """Raise ``ValueError`` if a result at ``out`` would touch a source: lie at it, within it or around it."""
    target = real(out)
    for source in sources:
        read = real(source)
        if target == read or target in read.parents or (read.is_dir() and read in target.parents):
            where = "is" if target == read else "contains" if target in read.parents else "lies in"
            raise ValueError(f"out={out} {where} the source {source}; expected a place apart from it")


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
