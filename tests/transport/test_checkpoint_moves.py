"""Check how tensors are cut, how words are summed, and that a wrong file is noticed."""

import os
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.models.safetensors_files import read_header
from gaugeport.transport import checkpoint_moves
from gaugeport.transport.checkpoint_checks import check_written, file_word_sum
from gaugeport.transport.checkpoint_moves import WRITE_BYTES, Mover, pieces_of, word_sum, write, write_rows

D = 32
AXES = {
    "columns": ("none", "vector"),
    "rows": ("vector", "none"),
    "vector": ("vector",),
    "gain": ("gain",),
    "copy": ("none", "none"),
    "scalar": (),
}


def tensors():
    rng = torch.Generator().manual_seed(0)
    shapes = {"columns": (50_000, D), "rows": (D, 77), "vector": (D,), "gain": (D,), "copy": (9, 5)}
    shapes |= {"scalar": ()}
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def moved(tmp_path, g):
    """Write the tensors, and move them; return the header, the pieces, and the moved file."""
    save_file(tensors(), tmp_path / "a")
    header, out = read_header(tmp_path / "a"), tmp_path / "b"
    pieces = [p for name, t in header.tensors.items() for p in pieces_of(t, AXES[name], g)]
    start = (tmp_path / "a").read_bytes()[: header.data_start]
    out.write_bytes(start + bytes(header.size - header.data_start))
    mover, total = Mover(g), word_sum(np.fromfile(out, np.uint8), 0)
    with (tmp_path / "a").open("rb") as source, out.open("r+b") as target:
        total += sum(mover.move(p, source.fileno(), target.fileno()) for p in pieces)
    assert total % 2**64 == file_word_sum(out)
    return header, pieces, out


def element(cls):
    return cls.random(D, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cls", [SignedPermutation, Orthogonal])
def test_every_write_that_is_not_moved_is_noticed(cls, tmp_path):
    g = element(cls)
    header, pieces, out = moved(tmp_path, g)
    check_written(header, pieces, g, out)
    content, source = out.read_bytes(), (tmp_path / "a").read_bytes()
    for piece in pieces:
        if piece.way == "copy":
            continue
        ends = piece.offset(piece.start), piece.offset(piece.stop)
        for a in range(*ends, WRITE_BYTES):
            b = min(a + WRITE_BYTES, ends[1])
            for damaged in (source[a:b], bytes(b - a)):  # as it was; never written
                out.write_bytes(content[:a] + damaged + content[b:])
                with pytest.raises(OSError, match=rf"{piece.tensor.name} is not the moved"):
                    check_written(header, pieces, g, out)


def test_every_write_of_narrow_rows_is_checked(tmp_path):
    """One write takes at most 1024 rows, however short they are."""
    d = 4096
    save_file({"a": torch.arange(1.0, d * 4 + 1).view(d, 4)}, tmp_path / "a")
    header, g, out = (
        read_header(tmp_path / "a"),
        SignedPermutation.random(d, torch.Generator()),
        tmp_path / "b",
    )
    (piece,) = pieces_of(header.tensors["a"], ("vector", "none"), g)
    out.write_bytes((tmp_path / "a").read_bytes())
    with (tmp_path / "a").open("rb") as source, out.open("r+b") as target:
        Mover(g).move(piece, source.fileno(), target.fileno())
    check_written(header, [piece], g, out)
    content = out.read_bytes()
    for row in range(0, d, 1024):
        a, b = piece.offset(row), piece.offset(row + 1024)
        out.write_bytes(content[:a] + bytes(b - a) + content[b:])
        with pytest.raises(OSError, match="a is not the moved"):
            check_written(header, [piece], g, out)


@pytest.mark.parametrize("cls", [SignedPermutation, Orthogonal])
def test_other_gauges_headers_and_lengths_are_noticed(cls, tmp_path):
    g = element(cls)
    header, pieces, out = moved(tmp_path, g)
    with pytest.raises(OSError, match="is not the moved tensor"):
        check_written(header, pieces, g.inverse(), out)
    content = out.read_bytes()
    out.write_bytes(content[:20] + b"?" + content[21:])
    with pytest.raises(OSError, match="its header differs"):
        check_written(header, pieces, g, out)
    out.write_bytes(content[:-1])
    with pytest.raises(OSError, match=rf"it has {len(content) - 1} bytes, expected {len(content)}"):
        check_written(header, pieces, g, out)


def test_one_wrong_entry_of_a_rotated_tensor_is_noticed(tmp_path):
    g = element(Orthogonal)
    header, pieces, out = moved(tmp_path, g)
    where = header.tensors["rows"].start + 4 * 1234
    content = bytearray(out.read_bytes())
    entry = np.frombuffer(content, np.float32, count=1, offset=where)
    content[where : where + 4] = (entry + np.float32(0.01)).tobytes()
    out.write_bytes(content)
    with pytest.raises(OSError, match="rows is not the moved tensor"):
        check_written(header, pieces, g, out)


def test_columns_are_cut_into_blocks_and_rows_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_moves, "BLOCK_BYTES", 1 << 21)
    save_file(tensors(), tmp_path / "a")
    stored = read_header(tmp_path / "a").tensors
    g = element(SignedPermutation)
    (columns,) = pieces_of(stored["columns"], AXES["columns"], g)
    assert columns.step * columns.row_bytes <= 1 << 21 and len(columns.blocks()) == 4
    assert [p.way for p in pieces_of(stored["rows"], AXES["rows"], g)] == ["rows"]
    assert [p.way for p in pieces_of(stored["rows"], AXES["rows"], element(Orthogonal))] == ["whole"]
    assert [p.way for p in pieces_of(stored["gain"], AXES["gain"], element(Orthogonal))] == ["copy"]


def test_word_sums_add_up_over_any_cut(tmp_path):
    content = random.Random(0).randbytes(1003)
    (tmp_path / "a").write_bytes(content)
    words = np.frombuffer(content + bytes(-len(content) % 8), "<u8")
    expected = sum(int(w) for w in words) % 2**64
    assert file_word_sum(tmp_path / "a") == expected
    for seed in range(20):
        cuts = sorted({0, len(content), *random.Random(seed).sample(range(len(content)), 9)})
        parts = [word_sum(np.frombuffer(content[a:b], np.uint8), a) for a, b in pairwise(cuts)]
        assert sum(parts) % 2**64 == expected


def test_writes_that_are_cut_short_are_continued(tmp_path, monkeypatch):
    whole = os.pwrite

    def some(file, data, offset):
        return whole(file, data[:3], offset)

    monkeypatch.setattr(os, "pwrite", some)
    monkeypatch.setattr(os, "pwritev", lambda file, buffers, offset: some(file, buffers[0], offset))
    with (tmp_path / "a").open("wb") as f:
        write_rows(f.fileno(), [memoryview(b"01234"), memoryview(b"56789")], 2)
        write(f.fileno(), memoryview(b"abcde"), 12)
    assert (tmp_path / "a").read_bytes() == b"\0\x000123456789abcde"
