"""Check moved tensors in a written file against their source.

The plain ``g.act`` is what they are checked with, not the kernels that moved them. Under signed permutations
one row of every write must be equal. Rotations are checked as a whole, by a product with a random vector on
both sides (Freivalds 1979), to the precision of the stored dtype.
"""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.models.safetensors_files import Header, StoredTensor, read_header
from gaugeport.models.stored_tensors import FLOATS, fill
from gaugeport.transport.checkpoint_moves import WRITE_BYTES, Piece, rows_per_write, turns, word_sum

SAMPLE_BYTES = 4096
READ_BYTES = 1 << 22


def check_written(
    header: Header, pieces: list[Piece], g: SignedPermutation | Orthogonal, target: Path
) -> None:
    """Check a written file: its length, its header, and every tensor against the source.

    Args:
        header: The header of the source.
        pieces: All pieces of the source.
        g: The gauge that moved them.
        target: The written file.

    Raises:
        OSError: If the file is not what was to be written.
    """
    size = target.stat().st_size
    if size != header.size:
        raise _wrong(target, f"it has {size} bytes, expected {header.size}")
    with header.file.open("rb") as a, target.open("rb") as b:
        if a.read(header.data_start) != b.read(header.data_start):
            raise _wrong(target, f"its header differs from that of {header.file}")
        for piece in pieces:
            if not _is_moved(piece, g, a.fileno(), b.fileno()):
                raise _wrong(target, f"{piece.tensor.name} is not the moved tensor of {header.file}")
    read_header(target)


def file_word_sum(path: Path) -> int:
    """Return the word sum of a whole file; see :func:`~gaugeport.transport.checkpoint_moves.word_sum`."""
    total, offset = 0, 0
    with path.open("rb", buffering=0) as f:
        while chunk := f.read(READ_BYTES):
            total += word_sum(np.frombuffer(chunk, dtype=np.uint8), offset)
            offset += len(chunk)
    return total % (1 << 64)


def _is_moved(piece: Piece, g: SignedPermutation | Orthogonal, source: int, target: int) -> bool:
    t = piece.tensor
    if piece.way == "copy":
        starts = [*_checked_rows(piece), max(piece.start, piece.stop - SAMPLE_BYTES)]
        spans = [(k, min(k + SAMPLE_BYTES, piece.stop)) for k in starts]
        return all(torch.equal(_bytes(source, piece, *span), _bytes(target, piece, *span)) for span in spans)
    if turns(g) and sum(kind == "vector" for kind in piece.axes) == 1:
        assert isinstance(g, Orthogonal)
        return all(_is_turned(piece, g, source, target, *block) for block in piece.blocks())
    if piece.way == "whole":
        dtype = FLOATS[t.dtype]
        before, after = (_bytes(f, piece, 0, 1).view(dtype).view(t.shape) for f in (source, target))
        for axis, kind in enumerate(piece.axes):
            before = {"vector": g.act, "gain": g.act_gain, "none": lambda x, _: x}[kind](before, axis)
        return torch.allclose(after, before, rtol=_rounding(t) if turns(g) else 0, atol=0, equal_nan=True)
    assert isinstance(g, SignedPermutation)
    rows = torch.tensor([*_checked_rows(piece), piece.stop - 1])
    if piece.way == "columns":
        x = _rows(source, piece, rows)
        x = g.act(x) if piece.axes[-1] == "vector" else g.act_gain(x)
    else:
        x = _rows(source, piece, g.perm[rows])
        if piece.axes[0] == "vector":
            x = x * g.sign[rows, None].to(x.dtype)
    return _same(_rows(target, piece, rows), x)


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal; NaN equals NaN, whatever its bits."""
    return torch.equal(a, b) or torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


def _checked_rows(piece: Piece) -> range:
    """Return the rows that are compared: one of every write."""
    n = piece.row_bytes
    per_write = rows_per_write(n) if piece.way == "rows" else max(1, WRITE_BYTES // n)
    return range(piece.start, piece.stop, per_write)


def _is_turned(piece: Piece, g: Orthogonal, source: int, target: int, start: int, stop: int) -> bool:
    """Return whether rows of one rotated axis are right: u·(Q x) = (Qᵀu)·x for a random vector u of ±1."""
    t, is_whole = piece.tensor, piece.way == "whole"
    shape, axis = (t.shape, piece.axes.index("vector")) if is_whole else ((stop - start, g.size), 1)
    x, moved = (
        _bytes(f, piece, start, stop).view(FLOATS[t.dtype]).view(shape).movedim(axis, -1).double()
        for f in (source, target)
    )
    u = torch.randint(0, 2, (g.size,), generator=torch.Generator().manual_seed(start)).double() * 2 - 1
    difference = moved @ u - x @ (g.matrix.T @ u)
    # each entry is rounded once to the stored dtype, so the sum is off by at most the sum of the roundings
    bound = _rounding(t) * moved.abs().sum(-1) + g.size * torch.finfo(FLOATS[t.dtype]).tiny
    return bool((difference.abs() <= bound).all())


def _rounding(tensor: StoredTensor) -> float:
    """Return the relative rounding of a moved entry: of its dtype, and of a sum of d products in float64."""
    d = max(tensor.shape)
    return torch.finfo(FLOATS[tensor.dtype]).eps + 4 * d**1.5 * torch.finfo(torch.float64).eps


def _rows(file: int, piece: Piece, rows: Tensor) -> Tensor:
    """Read some rows of a piece's tensor, float[len(rows), entries of a row]."""
    n = piece.row_bytes
    data = torch.empty(len(rows) * n, dtype=torch.uint8)
    into = data.numpy().data
    for k, row in enumerate(rows.tolist()):
        fill(file, into[k * n : (k + 1) * n], piece.offset(row), piece.tensor)
    return data.view(FLOATS[piece.tensor.dtype]).view(len(rows), -1)


def _bytes(file: int, piece: Piece, start: int, stop: int) -> Tensor:
    """Read some rows of a piece's tensor as bytes."""
    data = torch.empty((stop - start) * piece.row_bytes, dtype=torch.uint8)
    fill(file, data.numpy().data, piece.offset(start), piece.tensor)
    return data


def _wrong(path: Path, what: str) -> OSError:
    return OSError(errno.EIO, f"the file was not written right: {what}", str(path))
