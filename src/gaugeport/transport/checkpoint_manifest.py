"""Keep a record of a checkpoint's transport in the folder it writes, so that it can be taken up again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gaugeport.groups import Element
from gaugeport.models.folders import TRANSPORT_MANIFEST, read_json
from gaugeport.utils.files import write_json

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What a transport was made of, and what of it is done.

    Attributes:
        gauge: The gauge's group, its width and the sha256 of its tensors.
        sources: Name of a file that is read -> its bytes and the time of its last change (ns since 1970).
        done: Name of a weight file that is written and checked -> its bytes and its word sum.
        complete: Whether every file is written.
    """

    gauge: Mapping[str, Any]
    sources: Mapping[str, Mapping[str, int]]
    done: Mapping[str, Mapping[str, Any]]
    complete: bool = False

    def same_command(self, other: Manifest) -> bool:
        """Return whether both were made of the same files with the same gauge."""
        return self.gauge == other.gauge and self.sources == other.sources

    def with_done(self, name: str, nbytes: int, word_sum: int) -> Manifest:
        """Return the manifest with one more file done."""
        entry = {"bytes": nbytes, "word_sum": f"{word_sum:016x}"}
        return replace(self, done={**self.done, name: entry})

    def write(self, folder: Path) -> None:
        """Write the manifest atomically into a folder."""
        content = {
            "format": FORMAT,
            "gauge": dict(self.gauge),
            "sources": {name: dict(entry) for name, entry in self.sources.items()},
            "done": {name: dict(entry) for name, entry in self.done.items()},
            "complete": self.complete,
        }
        write_json(folder / TRANSPORT_MANIFEST, content)


def new_manifest(g: Element, files: Mapping[str, Path]) -> Manifest:
    """Return the manifest of a transport that begins.

    Args:
        g: The gauge.
        files: Name -> path of each file that is read.
    """
    return Manifest(gauge=_describe(g), sources={name: stamp(path) for name, path in files.items()}, done={})


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest in a folder, or None if there is none, or none that this release can read."""
    path = folder / TRANSPORT_MANIFEST
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except ValueError:
        return None
    gauge, sources, done = (content.get(key) for key in ("gauge", "sources", "done"))
    known = content.get("format") == FORMAT
    if not (known and isinstance(gauge, dict) and isinstance(sources, dict) and isinstance(done, dict)):
        return None
    return Manifest(gauge, sources, done, complete=content.get("complete") is True)


def stamp(path: Path) -> dict[str, int]:
    """Return what tells whether a file has changed: its bytes and the time of its last change."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _describe(g: Element) -> dict[str, Any]:
    digest = hashlib.sha256()
    for name, tensor in sorted(g._tensors().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return {"group": g.group, "width": g.size, "sha256": digest.hexdigest()}
