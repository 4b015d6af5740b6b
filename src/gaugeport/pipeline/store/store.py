"""Content-addressed artifacts: each stage is built once, whichever job asks first, and a killed build loses
nothing.

A stage is keyed by the hash of its configuration (contents of files, never paths or loggers). It is built in
a ``.partial`` folder under a file lock, its manifest is written last, and the folder is then renamed: a
folder under its final name is complete.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from gaugeport.pipeline.store.versions import versions
from gaugeport.utils.files import follow_umask, write_json

MANIFEST = "manifest.json"
SOURCE = "source.json"
"""Where a fetched stage came from, written by its build. The manifest quotes it, and no digest counts it."""

MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
"""Suffixes of the files of a model folder that decide what is loaded: weights, configs, tokenizers,
chat templates."""

SCHEMA = {"data": 1, "base": 1, "run": 1, "sae": 1, "evidence": 3, "lists": 2, "dyck": 2}
"""Version of each kind of stage, 1 for the others. Raise it when the code builds something else: older
artifacts are then no longer found."""


def digest(config: Any) -> str:
    """Return a stable 16-digit hash of plain data; the order of a dict's keys does not count."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_files(path: str | Path) -> str:
    """Return a hash of a file's contents, or of every model, tokenizer and config file directly in a folder.

    Raises:
        FileNotFoundError: The path does not exist, or the folder has no such file.
    """
    path = Path(path)
    inside = [f for f in sorted(path.glob("*")) if f.suffix in MODEL_FILES and f.name != SOURCE]
    files = [path] if path.is_file() else inside
    if not files:
        raise FileNotFoundError(f"{path}: no file, or no folder with model files ({', '.join(MODEL_FILES)})")
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode() if path.is_dir() else b"")
        total.update(_digest_file(file, file.stat().st_size, file.stat().st_mtime_ns))
    return total.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, 64 hexadecimal digits."""
    about = path.stat()
    return _digest_file(path, about.st_size, about.st_mtime_ns).hex()


@functools.lru_cache(maxsize=1024)
def _digest_file(path: Path, size: int, mtime_ns: int) -> bytes:
    # size and time are part of the cache key, so gigabytes of weights are read once per process, not once per
    # stage
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").digest()


class Store:
    """The artifacts below one folder: ``<root>/<kind>/<hash>/`` with a manifest each."""

    def __init__(self, root: str | Path):
        self.root = Path(root).resolve()

    def path(self, kind: str, config: dict[str, Any]) -> Path:
        """Return the folder of a stage, whether it exists or not."""
        return self.root / f"{kind}-v{SCHEMA.get(kind, 1)}" / digest(config)

    def manifest_path(self, kind: str, config: dict[str, Any]) -> Path:
        """Return the file that exists once a stage is built."""
        return self.path(kind, config) / MANIFEST

    def has(self, kind: str, config: dict[str, Any]) -> bool:
        """Return whether a stage is built and complete."""
        return _is_whole(self.path(kind, config))

    def ensure(
        self,
        kind: str,
        config: dict[str, Any],
        build: Callable[[Path], None],
        resumable: bool = False,
        made: Mapping[str, Any] | None = None,
    ) -> Path:
        """Return the folder of a stage, and build it first if it does not exist.

        When two processes need the same stage, one builds it and the other waits. A stage whose files were
        damaged is rebuilt. If ``build`` raises, nothing is left under the final name.

        Args:
            kind: The kind of stage.
            config: What decides its contents, as plain data.
            build: Write the stage into the folder it is given.
            resumable: Whether ``build`` finds what an interrupted build left, rather than an empty folder.
            made: Where ``build`` only copies a stage that was built elsewhere, that build's ``seconds`` and
                ``versions``.
        """
        final = self.path(kind, config)
        if _is_whole(final):
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(f".{final.name}.lock")):
            if _is_whole(final):
                return final
            partial = partial_of(final)
            if partial.exists() and not resumable:
                shutil.rmtree(partial)
            partial.mkdir(exist_ok=True)
            began = time.monotonic()
            build(partial)
            follow_umask(partial)
            manifest = {
                "kind": kind,
                "config": config,
                "seconds": round(time.monotonic() - began, 2),
                "versions": versions(),
                "files": {str(f.relative_to(partial)): f.stat().st_size for f in _files(partial)},
                **(made or {}),
            }
            if (partial / SOURCE).exists():
                manifest["source"] = json.loads((partial / SOURCE).read_text())
            write_json(partial / MANIFEST, manifest)
            with (self.root / "built.log").open("a") as log:
                log.write(f"{kind} {final.name}\n")
            if final.exists():
                shutil.rmtree(final)
            os.replace(partial, final)
        return final


def partial_of(final: Path) -> Path:
    """Return the folder that a stage is built in before it gets its final name."""
    return final.with_name(f".{final.name}.partial")


def manifest(stage: Path) -> dict[str, Any]:
    """Read the manifest of a finished stage."""
    return json.loads((stage / MANIFEST).read_text())


def _files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file() and f.name != MANIFEST)


def _is_whole(stage: Path) -> bool:
    try:
        files = manifest(stage)["files"]
    except (OSError, ValueError, KeyError):  # absent, half-written or damaged
        return False
    return all((stage / f).exists() and (stage / f).stat().st_size == size for f, size in files.items())
