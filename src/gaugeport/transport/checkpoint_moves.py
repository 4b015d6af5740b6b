"""Move the tensors of one safetensors file into another, a few megabytes at a time, and check the result.

A tensor is moved in *pieces*, so that several workers can share a large one:

* columns (the stream is the last axis): blocks of rows are read, moved in cache and written;
* rows (the stream is the first axis): the tensor is read and signed block by block, and its rows are written
  in their new order by ``pwritev``, which gathers them as it copies;
* whole (vectors, rotations of the first axis): the tensor is read, moved and written;
* copy (no axis is moved): the bytes are copied.

Only *rows* and *whole* hold more than a block in memory: one tensor.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.models.safetensors_files import StoredTensor
from gaugeport.models.stored_tensors import FLOATS, fill
from gaugeport.transport.axis import ELEMENTS_PER_ROTATION_BLOCK, InPlace

BLOCK_BYTES = 1 << 23
WRITE_BYTES = 1 << 19
"""How much one ``pwrite`` writes. Linux 6.18 on ext4 takes half as much time again for megabytes."""

PIECE_BYTES = 1 << 26
ROWS_BYTES = 1 << 18
"""How much of ``rows`` is read at once, and how much one ``pwritev`` writes. Linux 6.18 on ext4 takes up to 5
times as long for megabytes of rows."""

MAX_VECTORS = 1024
"""How many buffers one ``pwritev`` takes on Linux and macOS (IOV_MAX)."""

WORD_MODULUS = 1 << 64
Way = Literal["copy", "columns", "rows", "whole"]


@dataclass(frozen=True)
class Piece:
    """Some rows of a tensor, and how they are moved.

    Attributes:
        tensor: Where the tensor lies in the source. It lies at the same place in the target.
        axes: The action on each axis.
        way: How it is moved.
        rows: How many rows the tensor has, where a row is what is moved at once: for ``columns`` all entries
            along the stream, for ``rows`` one entry of the first axis, else one byte (``copy``) or all bytes
            (``whole``).
        start, stop: The first row of the piece, and the row after the last.
        step: How many rows are read, moved and written at a time; of ``rows`` all are in memory at once.
    """

    tensor: StoredTensor
    axes: tuple[str, ...]
    way: Way
    rows: int
    start: int
    stop: int
    step: int

    @property
    def row_bytes(self) -> int:
        return self.tensor.nbytes // self.rows

    @property
    def nbytes(self) -> int:
        return (self.stop - self.start) * self.row_bytes

    def blocks(self) -> list[tuple[int, int]]:
        """Return the (first row, row after the last) of each block."""
        return [(k, min(k + self.step, self.stop)) for k in range(self.start, self.stop, self.step)]

    def offset(self, row: int) -> int:
        """Return where a row begins in the file."""
        return self.tensor.start + row * self.row_bytes


def pieces_of(tensor: StoredTensor, axes: tuple[str, ...], g: SignedPermutation | Orthogonal) -> list[Piece]:
    """Cut a tensor into pieces of :data:`PIECE_BYTES` or less, where its rows can be moved apart."""
    moved = [k for k, kind in enumerate(axes) if kind == "vector" or (kind == "gain" and not turns(g))]
    if not tensor.nbytes:
        return []
    way: Way
    if not moved:
        way, rows, step = "copy", tensor.nbytes, BLOCK_BYTES
    elif len(axes) > 1 and moved == [len(axes) - 1]:
        # rotations take the blocks of InPlace, so that products are rounded alike
        way, rows = "columns", prod(tensor.shape[:-1])
        in_bytes, in_entries = BLOCK_BYTES * rows // tensor.nbytes, ELEMENTS_PER_ROTATION_BLOCK // g.size
        step = max(1, in_entries if turns(g) else in_bytes)
    elif len(axes) > 1 and moved == [0] and not turns(g):
        way, rows, step = "rows", tensor.shape[0], tensor.shape[0]
    else:
        way, rows, step = "whole", 1, 1
    per_piece = max(1, PIECE_BYTES * rows // tensor.nbytes // step) * step
    if way in ("rows", "whole"):
        per_piece = rows
    return [
        Piece(tensor, axes, way, rows, k, min(k + per_piece, rows), step) for k in range(0, rows, per_piece)
    ]


def turns(g: SignedPermutation | Orthogonal) -> bool:
    """Return whether ``g`` mixes coordinates."""
    return isinstance(g, Orthogonal)


class Mover:
    """Move pieces from one open file to another. It reuses memory, and serves one thread."""

    def __init__(self, g: SignedPermutation | Orthogonal):
        self.g = g
        self._act = InPlace(g)
        self._memory = torch.empty(0, dtype=torch.uint8)

    def move(self, piece: Piece, source: int, target: int) -> int:
        """Read a piece, move it and write it.

        Args:
            piece: The piece.
            source, target: The files, open for reading and for writing.

        Returns:
            The piece's part of the target's :func:`word_sum`.

        Raises:
            ValueError: If the source ends early.
            OSError: If the target cannot be written, because the disk is full for instance.
        """
        if piece.way == "rows":
            return self._move_rows(piece, source, target)
        total = 0
        for start, stop in piece.blocks():
            memory = self._bytes((stop - start) * piece.row_bytes)
            fill(source, memory.numpy().data, piece.offset(start), piece.tensor)
            if piece.way == "columns":
                x = memory.view(FLOATS[piece.tensor.dtype]).view(stop - start, -1)
                self._act.by_kinds(x, ("none", piece.axes[-1]))
            elif piece.way == "whole":
                self._move_whole(memory.view(FLOATS[piece.tensor.dtype]).view(piece.tensor.shape), piece.axes)
            write(target, memory.numpy().data, piece.offset(start))
            total += word_sum(memory.numpy(), piece.offset(start))
        return total % WORD_MODULUS

    def _bytes(self, n: int) -> Tensor:
        if len(self._memory) < n:
            self._memory = torch.empty(n, dtype=torch.uint8)
        return self._memory[:n]

    def _move_whole(self, x: Tensor, axes: tuple[str, ...]) -> None:
        """Move a whole tensor; a matrix under a rotation in some columns at a time, to keep memory small."""
        columns = ELEMENTS_PER_ROTATION_BLOCK // x.shape[0] if turns(self.g) and x.dim() == 2 else x.shape[-1]
        for block in x.split(max(1, columns), dim=-1) if axes[-1] == "none" else (x,):
            self._act.by_kinds(block, axes)

    def _move_rows(self, piece: Piece, source: int, target: int) -> int:
        """Read and sign the rows of a whole tensor, and write them in their new order."""
        assert isinstance(self.g, SignedPermutation)
        n, dtype = piece.row_bytes, FLOATS[piece.tensor.dtype]
        memory, flips = self._bytes(piece.rows * n), None
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
        if piece.axes[0] == "vector" and bool((self.g.sign < 0).any()):
            flips = torch.zeros(piece.rows, 1, dtype=bits)
            flips[self.g.perm, 0] = (self.g.sign < 0).to(bits) << (8 * dtype.itemsize - 1)
        origins = (self.g.perm * n).tolist()  # where each row of the target begins in memory
        in_words = n % 8 == 0 == piece.tensor.start % 8  # whole words move, and keep their sum
        data, total, step = memory.numpy(), 0, rows_per_write(n)
        for k in range(0, piece.rows, step):  # signed and summed while they are in the cache
            block = slice(k * n, min(k + step, piece.rows) * n)
            fill(source, data[block].data, piece.offset(k), piece.tensor)
            if flips is not None:
                memory[block].view(bits).view(-1, n // dtype.itemsize).bitwise_xor_(flips[k : k + step])
            if in_words:
                total += word_sum(data[block], piece.offset(k))
        write_rows(target, [data.data[j : j + n] for j in origins], piece.offset(0))
        if not in_words:
            total = sum(word_sum(data[j : j + n], piece.offset(k)) for k, j in enumerate(origins))
        return total % WORD_MODULUS


def write(file: int, data: memoryview, offset: int) -> None:
    """Write bytes at an offset of an open file."""
    done = 0
    while done < len(data):  # a full disk may cut a write short
        done += os.pwrite(file, data[done : done + WRITE_BYTES], offset + done)


def rows_per_write(nbytes: int) -> int:
    """Return how many rows of so many bytes :func:`write_rows` writes at a time."""
    return max(1, min(MAX_VECTORS, ROWS_BYTES // nbytes))


def write_rows(file: int, rows: Sequence[memoryview], offset: int) -> None:
    """Write rows of one length one after the other at an offset of an open file."""
    n = len(rows[0])
    per_call = rows_per_write(n)
    for k in range(0, len(rows), per_call):
        group = rows[k : k + per_call]
        written = os.pwritev(file, group, offset + k * n)
        if written < len(group) * n:
            write(file, memoryview(b"".join(group))[written:], offset + k * n + written)


def word_sum(data: np.ndarray, offset: int) -> int:
    """Return the part that some bytes have in the word sum of their file.

    The word sum of a file is the sum of its little-endian 64-bit words, the last filled up with zeros, modulo
    2^64. It is the sum of the parts of any cut of the file, and 8 times as fast as a sha256.

    Args:
        data: uint8[n].
        offset: Where they begin in the file.
    """
    head = min(-offset % 8, len(data))
    words = (len(data) - head) // 8
    body, tail = data[head : head + 8 * words], data[head + 8 * words :]
    total = int(body.view("<u8").sum(dtype=np.uint64)) if words else 0
    total += int.from_bytes(data[:head].tobytes(), "little") << 8 * (offset % 8)
    return (total + int.from_bytes(tail.tobytes(), "little")) % WORD_MODULUS
