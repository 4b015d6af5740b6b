"""Move the weight files of a checkpoint, several tensors at a time, each file written whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.models.safetensors_files import Header
from gaugeport.transport.checkpoint_checks import check_written
from gaugeport.transport.checkpoint_manifest import stamp
from gaugeport.transport.checkpoint_moves import WORD_MODULUS, Mover, Piece, word_sum, write

OPEN_SHARDS = 2
"""How many weight files are in work at a time: while one is checked, the next is moved."""


class Shard:
    """One weight file in work: it is written beside its final name, checked, and renamed."""

    def __init__(self, header: Header, pieces: list[Piece], target: Path):
        self.header = header
        self.pieces = pieces
        self.target = target
        self._temporary = target.with_name(f".{target.name}.partial")
        self._stamp = stamp(header.file)
        self._sum, self._lock = 0, threading.Lock()
        self._source = self._written = -1

    def open(self) -> None:
        """Open both files, and write the header."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._source = os.open(self.header.file, os.O_RDONLY)
        self._written = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        os.ftruncate(self._written, self.header.size)
        start = os.pread(self._source, self.header.data_start, 0)
        write(self._written, memoryview(start), 0)
        self._sum = word_sum(np.frombuffer(start, dtype=np.uint8), 0)

    def move(self, piece: Piece, mover: Mover) -> None:
        """Move one piece."""
        part = mover.move(piece, self._source, self._written)
        with self._lock:
            self._sum = (self._sum + part) % WORD_MODULUS

    def finish(self, g: SignedPermutation | Orthogonal) -> int:
        """Check the written file, give it its name, and return its word sum.

        Raises ``OSError`` if it is not what was to be written, ``ValueError`` if the source has changed.
        """
        self._close()
        check_written(self.header, self.pieces, g, self._temporary)
        if stamp(self.header.file) != self._stamp:
            raise ValueError(f"{self.header.file} has changed while it was read: give the command again")
        os.replace(self._temporary, self.target)
        return self._sum

    def abort(self) -> None:
        """Leave nothing of a file that is not finished; a finished one stays."""
        self._close()
        self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        for file in (self._source, self._written):
            if file >= 0:
                os.close(file)
        self._source = self._written = -1


def move_shards(
    shards: Iterable[Shard],
    g: SignedPermutation | Orthogonal,
    workers: int,
    finished: Callable[[Shard, int], None],
    moved: Callable[[int], None],
) -> None:
    """Move weight files in order, with a number of threads that share the tensors of each.

    Args:
        shards: The files.
        g: The gauge.
        workers: The number of threads. Each runs torch on one thread.
        finished: Called with each finished file and its word sum, one at a time.
        moved: Called with the bytes of each moved piece, one at a time.

    Raises:
        OSError: If a file cannot be written (a full disk), or is not what was to be written.
        ValueError: If a source has changed.
    """
    local, lock, before = threading.local(), threading.Lock(), torch.get_num_threads()
    stopped = threading.Event()

    def move(shard: Shard, piece: Piece) -> None:
        if stopped.is_set():
            return
        if not hasattr(local, "mover"):
            local.mover = Mover(g)
        try:
            shard.move(piece, local.mover)
        except BaseException:
            stopped.set()
            raise
        with lock:
            moved(piece.nbytes)

    def finish(shard: Shard, pieces: list[Future[None]]) -> None:
        for piece in pieces:
            piece.result()
        if not stopped.is_set():
            total = shard.finish(g)
            with lock:
                finished(shard, total)

    opened: list[Shard] = []
    unfinished: list[Future[None]] = []
    # each thread would otherwise start a team of OpenMP threads of its own
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for shard in shards:
            if len(unfinished) == OPEN_SHARDS:
                unfinished.pop(0).result()
            opened.append(shard)
            shard.open()
            pieces = [pool.submit(move, shard, piece) for piece in shard.pieces]
            # threads take tasks in order: when one takes this, others have taken all the pieces
            unfinished.append(pool.submit(finish, shard, pieces))
        for future in unfinished:
            future.result()
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
        for shard in opened:
            shard.abort()
