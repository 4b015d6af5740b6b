"""Content-addressed artifacts: a stage is built once, whoever asks, and survives being killed.

A stage is keyed by the hash of its configuration (contents, never paths or loggers). It is built in a
``.partial`` folder under a file lock, its manifest is written last, and the folder is renamed into place: what
exists under its final name is whole.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from gaugeport.pipeline.store.versions import versions
from gaugeport.utils.files import write_json

MANIFEST = "manifest.json"
MODEL_FILES = (".safetensors", ".bin", ".json", ".model", ".txt")
"""Which files of a model folder decide what is loaded from it: weights, configs, tokenizers."""

SCHEMA = {"data": 1, "base": 1, "run": 1, "sae": 1, "evidence": 3, "lists": 2, "dyck": 2}
"""Raised for a kind of stage when its code changes what it builds: older artifacts are then no longer found."""


def digest(config: Any) -> str:
    """A stable 16-digit hash of plain data (dicts in any order, lists, strings, numbers, booleans, None)."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_files(path: str | Path) -> str:
    """A hash of a file's content, or of every model, tokenizer and config file directly in a folder.

    Raises ``FileNotFoundError`` when there is nothing there.
    """
    path = Path(path)
    files = [path] if path.is_file() else [f for f in sorted(path.glob("*")) if f.suffix in MODEL_FILES]
    if not files:
        raise FileNotFoundError(f"nothing to read at {path}")
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() if path.is_dir() else b"")
        total.update(_digest_file(file, file.stat().st_size, file.stat().st_mtime_ns))
    return total.hexdigest()[:16]


@functools.lru_cache(maxsize=1024)
def _digest_file(path: Path, size: int, mtime_ns: int) -> bytes:
    # size and time are in the cache's key: weights of gigabytes are read once a process, not once a stage
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").digest()


class Store:
    """The artifacts below one folder: ``<root>/<kind>/<hash>/`` with a manifest each."""

    def __init__(self, root: str | Path):
        self.root = Path(root).resolve()

    def path(self, kind: str, config: dict[str, Any]) -> Path:
        """Where a stage lies, or would."""
        return self.root / f"{kind}-v{SCHEMA.get(kind, 1)}" / digest(config)

    def manifest_path(self, kind: str, config: dict[str, Any]) -> Path:
        """The file that is there once a stage is built."""
        return self.path(kind, config) / MANIFEST

    def has(self, kind: str, config: dict[str, Any]) -> bool:
        """Whether a stage is built and whole."""
        return _is_whole(self.path(kind, config))

    def ensure(
        self, kind: str, config: dict[str, Any], build: Callable[[Path], None], resumable: bool = False
    ) -> Path:
        """The folder of a stage, built by ``build(folder)`` if it is not there.

        Two processes that want the same stage: one builds, the other waits. ``resumable`` stages find in ``folder``
        what an interrupted build left and go on from it; others start empty. A stage whose files were damaged since
        is rebuilt. ``build`` raising leaves nothing under the final name.
        """
        final = self.path(kind, config)
        if _is_whole(final):
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(f".{final.name}.lock")):
            if _is_whole(final):
                return final
            partial = final.with_name(f".{final.name}.partial")
            if partial.exists() and not resumable:
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            began = time.monotonic()
            build(partial)
            manifest = {
                "kind": kind,
                "config": config,
                "seconds": round(time.monotonic() - began, 2),
                "versions": versions(),
                "files": {str(f.relative_to(partial)): f.stat().st_size for f in _files(partial)},
            }
            write_json(partial / MANIFEST, manifest)
            with (self.root / "built.log").open("a") as log:
                log.write(f"{kind} {final.name}\n")
            if final.exists():
                shutil.rmtree(final)
            os.replace(partial, final)
        return final


def manifest(stage: Path) -> dict[str, Any]:
    """The manifest of a finished stage."""
    return json.loads((stage / MANIFEST).read_text())


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file() and f.name != MANIFEST)


def _is_whole(stage: Path) -> bool:
    try:
        files = manifest(stage)["files"]
    except (OSError, ValueError, KeyError):  # absent, half-written or damaged
        return False
    return all((stage / f).exists() and (stage / f).stat().st_size == size for f, size in files.items())
