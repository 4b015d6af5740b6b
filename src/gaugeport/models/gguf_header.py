"""Check the structure of a GGUF file before a reader trusts it.

The readers of gguf and transformers follow the counts in a file wherever they lead: a damaged length of an
array is a loop that does not end. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Type number of a value -> its bytes; 8 is a string and 9 an array."""

STRING, ARRAY, UINT32, UINT64 = 8, 9, 4, 10
MAX_DIMENSIONS = 8
MAX_NESTING = 4
BLOCKS_KEY = ".block_count"


def check_gguf(path: Path) -> int:
    """Check that every count and offset in a GGUF file stays within the file.

    Returns:
        How many numbers its tensors hold.

    Raises:
        ValueError: If the file is truncated, damaged or no GGUF file, or says that it has more blocks than
            tensors.
    """
    with path.open("rb") as f:
        try:
            return _Parser(f, path.stat().st_size).check()
        except ValueError as e:
            raise ValueError(f"{path} is damaged or not a GGUF file: {e}") from e


class _Parser:
    """Walk through a file, and raise ``ValueError`` where it contradicts itself."""

    def __init__(self, file: BinaryIO, size: int):
        self.file = file
        self.size = size
        self.entries = 0

    def check(self) -> int:
        if self.file.read(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self.number("<I")
        if version not in VERSIONS:
            raise ValueError(f"its version is {version}; known: {VERSIONS}")
        tensors, values = self.count("tensors", 25), self.count("values", 13)
        alignment = 32
        for _ in range(values):
            key = self.string()
            kind = self.number("<I")
            start = self.file.tell()
            self.skip_value(kind)
            if kind in (UINT32, UINT64) and (key.endswith(BLOCKS_KEY) or key == "general.alignment"):
                after = self.file.tell()
                self.file.seek(start)
                number = self.number("<I" if kind == UINT32 else "<Q")
                self.file.seek(after)
                if key == "general.alignment":
                    alignment = number
                elif number > tensors:
                    raise ValueError(f"it says {key}={number}, and has {tensors} tensors")
        ends = [self.tensor_end() for _ in range(tensors)]
        if alignment == 0:
            raise ValueError("its alignment is 0")
        data = -(-self.file.tell() // alignment) * alignment
        if ends and data + max(ends) > self.size:
            raise ValueError(f"it is truncated: expected {data + max(ends)} bytes, got {self.size}")
        return self.entries

    def number(self, form: str) -> int:
        data = self.take(struct.calcsize(form))
        return int(struct.unpack(form, data)[0])

    def take(self, n: int) -> bytes:
        data = self.file.read(n)
        if len(data) < n:
            raise ValueError(f"it ends at byte {self.size}, where more is expected")
        return data

    def skip(self, n: int) -> None:
        if n > self.size - self.file.tell():
            raise ValueError(f"at byte {self.file.tell()} it says that {n} bytes follow; it has {self.size}")
        self.file.seek(n, 1)

    def count(self, of: str, least_bytes: int) -> int:
        """Read how many things follow that take some bytes each."""
        n = self.number("<Q")
        if n * least_bytes > self.size - self.file.tell():
            raise ValueError(f"it says that {n} {of} follow, for which it is too short")
        return n

    def string(self) -> str:
        return self.take(self.count("bytes of text", 1)).decode(errors="replace")

    def skip_value(self, kind: int, nesting: int = 0) -> None:
        if kind in SCALAR_BYTES:
            self.skip(SCALAR_BYTES[kind])
        elif kind == STRING:
            self.skip(self.number("<Q"))
        elif kind == ARRAY and nesting < MAX_NESTING:
            inner = self.number("<I")
            n = self.count("entries", SCALAR_BYTES.get(inner, 8))
            if inner in SCALAR_BYTES:
                self.skip(n * SCALAR_BYTES[inner])
            else:
                for _ in range(n):
                    self.skip_value(inner, nesting + 1)
        else:
            raise ValueError(f"at byte {self.file.tell()} a value has the unknown type {kind}")

    def tensor_end(self) -> int:
        """Read one entry of the list of tensors; return where the tensor ends in the data."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self.string()
        n = self.number("<I")
        if n > MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name!r} has {n} dimensions")
        shape = [self.number("<Q") for _ in range(n)]
        kind = self.number("<I")
        try:
            per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (KeyError, ValueError) as e:
            raise ValueError(f"the tensor {name!r} has the unknown type {kind}") from e
        self.entries += prod(shape)
        return self.number("<Q") + prod(shape) // per_block * block_bytes
