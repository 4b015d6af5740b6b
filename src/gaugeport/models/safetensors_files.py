"""Read the header of a safetensors file, and check the file's length and layout against it.

A file is 8 bytes (the header's length, little-endian), the header (JSON: name -> dtype, shape, offsets) and
the tensors' bytes, without holes. Nothing of the tensors is read here.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
"""Bits of one element, by the dtype's name in a header."""

MAX_HEADER_BYTES = 100_000_000
"""The longest header that the safetensors library reads."""

POINTER_START = b"version https://git-lfs.github.com/spec/"
POINTER_MAX_BYTES = 1024
"""How a git-lfs pointer file begins, and the size that it cannot exceed."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a safetensors file.

    Attributes:
        name: Its name in the file.
        file: The file.
        dtype: Its dtype as the header names it, e.g. ``"BF16"``.
        shape: Its shape.
        start: Where its bytes begin, counted from the start of the file.
        nbytes: How many bytes it has.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        file: The file.
        size: The size of the file in bytes.
        data_start: Where the tensors begin: the header's length and the 8 bytes before it.
        tensors: Name -> tensor, in the order of the header.
    """

    file: Path
    size: int
    data_start: int
    tensors: dict[str, StoredTensor]


def check_safetensors(path: Path) -> set[str]:
    """Return the tensor names of a safetensors file, after checking its header and its length.

    Raises ``ValueError`` as :func:`read_header` does.
    """
    return set(read_header(path).tensors)


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        ValueError: If the file is a git-lfs pointer, is truncated, or if its header cannot be read or does
            not describe it: unknown dtypes, sizes that do not fit shapes, overlaps or holes.
    """
    refuse_lfs_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as f:
        start = f.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(
                f"{path} is truncated or not a safetensors file: {size} bytes in all, {length} in its header"
            )
        text = f.read(length)
    try:
        entries = json.loads(text, object_pairs_hook=_without_repeats)
        if not isinstance(entries, dict):
            raise ValueError(f"expected a JSON object, got a {type(entries).__name__}")
        entries.pop("__metadata__", None)
        tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{path} is damaged: cannot read its safetensors header ({e})") from e
    expected = max((t.start + t.nbytes for t in tensors.values()), default=8 + length)
    if size != expected:
        raise ValueError(
            f"{path} is truncated or damaged: expected {expected} bytes from its header, got {size} bytes"
        )
    _check_layout(path, list(tensors.values()), 8 + length)
    return Header(path, size, 8 + length, tensors)


def refuse_lfs_pointer(path: Path) -> None:
    """Raise ``ValueError`` for a git-lfs pointer: the small text file that stands for one not downloaded."""
    if path.stat().st_size > POINTER_MAX_BYTES:
        return
    with path.open("rb") as f:
        if f.read(len(POINTER_START)) == POINTER_START:
            raise ValueError(
                f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` in its folder, or "
                "download the file again"
            )


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object. Raise ``ValueError`` for a name that stands there twice."""
    repeated = [name for name, n in Counter(name for name, _ in pairs).items() if n > 1]
    if repeated:
        raise ValueError(f"{repeated[0]!r} stands there twice")
    return dict(pairs)


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    """Return one tensor of a header. Raise ``ValueError`` if its entry contradicts itself."""
    if not isinstance(entry, dict):
        raise ValueError(f"{name}: expected a JSON object, got {entry!r}")
    dtype = entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{name} has dtype {dtype!r}; known: {', '.join(BITS)}")
    shape, offsets = _counts(name, entry, "shape"), _counts(name, entry, "data_offsets")
    if len(offsets) != 2:
        raise ValueError(f"{name} has data_offsets {offsets}, expected two")
    nbytes = offsets[1] - offsets[0]
    if nbytes * 8 != prod(shape) * BITS[dtype]:
        raise ValueError(f"{name} has {nbytes} bytes, which is not shape {shape} in {dtype}")
    return StoredTensor(name, path, dtype, tuple(shape), data_start + offsets[0], nbytes)


def _counts(name: str, entry: dict[str, Any], key: str) -> list[int]:
    """Return a list of integers of 0 or more. Raise ``ValueError`` for anything else."""
    values = entry.get(key)
    if not isinstance(values, list) or not all(type(n) is int and n >= 0 for n in values):
        raise ValueError(f"{name} has {key} {values!r}")
    return values


def _check_layout(path: Path, tensors: Sequence[StoredTensor], start: int) -> None:
    """Raise ``ValueError`` for tensors that overlap, or that leave a hole between them."""
    for tensor in sorted(tensors, key=lambda t: (t.start, t.nbytes)):
        if tensor.start != start:
            what = "overlaps another tensor" if tensor.start < start else "leaves a hole before it"
            raise ValueError(f"{path} is damaged: by its header, {tensor.name} {what}")
        start += tensor.nbytes
