"""A weight file whose record fails ends the work at once, and gets no name."""

import errno
import threading

import pytest
import torch
from safetensors.torch import save_file

from gaugeport.groups import SignedPermutation
from gaugeport.models.safetensors_files import read_header
from gaugeport.transport.checkpoint_moves import pieces_of
from gaugeport.transport.checkpoint_shards import Shard, move_shards


def test_a_record_that_fails_stops_the_workers(tmp_path):
    g, failed, moved = SignedPermutation.random(8, torch.Generator()), threading.Event(), []
    (tmp_path / "out").mkdir()
    shards = []
    for k in range(20):
        save_file({"a": torch.randn(3, 8)}, tmp_path / f"{k}")
        header = read_header(tmp_path / f"{k}")
        pieces = pieces_of(header.tensors["a"], ("none", "vector"), g)
        shards.append(Shard(header, pieces, tmp_path / "out" / f"{k}"))

    def finished(shard, word_sum):
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    def piece_moved(nbytes):
        moved.append(nbytes)
        if len(moved) > 1:
            assert failed.wait(10)
            threading.Event().wait(0.05)  # the other thread is about to say so

    with pytest.raises(OSError, match="Input/output error"):
        move_shards(shards, g, 1, finished, piece_moved)
    assert len(moved) < 10 and not list((tmp_path / "out").iterdir())
