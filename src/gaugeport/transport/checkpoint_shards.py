"""Move the weight files of a checkpoint, several tensors at a time, each file written whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.models.safetensors_files import Header
from gaugeport.transport.checkpoint_checks import check_written
from gaugeport.transport.checkpoint_manifest import stamp
from gaugeport.transport.checkpoint_moves import WORD_MODULUS, Mover, Piece, word_sum, write


class Shard:
    """One weight file in work: written beside its final name, checked, recorded as done, and renamed."""

    def __init__(self, header: Header, pieces: list[Piece], target: Path):
        self.header = header
        self.pieces = pieces
        self.target = target
        self._temporary = target.with_name(f".{target.name}.partial")
        self._left, self._unfinished = list(reversed(pieces)), len(pieces)
        self._stamp = stamp(header.file)
        self._sum, self._lock = 0, threading.Lock()
        self._source = self._written = -1

    def open(self) -> None:
        """Open both files, take the room on the disk, and write the header.

        Raises ``OSError`` if the disk is full.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._source = os.open(self.header.file, os.O_RDONLY)
        self._written = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        reserve(self._written, self.header.size)
        start = os.pread(self._source, self.header.data_start, 0)
        write(self._written, memoryview(start), 0)
        self._sum = word_sum(np.frombuffer(start, dtype=np.uint8), 0)

    @property
    def left(self) -> int:
        """How many pieces no worker has taken."""
        return len(self._left)

    def take(self) -> Piece | None:
        """Return a piece that no worker has taken, or None."""
        with self._lock:
            return self._left.pop() if self._left else None

    def move(self, piece: Piece, mover: Mover) -> bool:
        """Move one piece; return whether it was the last."""
        part = mover.move(piece, self._source, self._written)
        with self._lock:
            self._sum = (self._sum + part) % WORD_MODULUS
            self._unfinished -= 1
            return not self._unfinished

    def finish(self, g: SignedPermutation | Orthogonal) -> int:
        """Check the written file, and return its word sum.

        Raises ``OSError`` if it is not what was to be written, ``ValueError`` if the source has changed.
        """
        self._close()
        check_written(self.header, self.pieces, g, self._temporary)
        if stamp(self.header.file) != self._stamp:
            raise ValueError(f"{self.header.file} has changed while it was read: give the command again")
        return self._sum

    def give_name(self) -> None:
        """Give the written file its final name."""
        os.replace(self._temporary, self.target)

    def abort(self) -> None:
        """Leave nothing of a file that is not finished; a finished one stays."""
        self._close()
        self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        for file in (self._source, self._written):
            if file >= 0:
                os.close(file)
        self._source = self._written = -1


def reserve(file: int, nbytes: int) -> None:
    """Give an open file its length and its room on the disk: writing is then up to 3 times as fast.

    Where the system cannot reserve room, the file only gets its length. Raises ``OSError`` if the disk is
    full.
    """
    try:
        os.posix_fallocate(file, 0, nbytes)
    except (AttributeError, OSError) as e:  # no such function on macOS
        if getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        os.ftruncate(file, nbytes)


def move_shards(
    shards: Iterable[Shard],
    g: SignedPermutation | Orthogonal,
    workers: int,
    finished: Callable[[Shard, int], None],
    moved: Callable[[int], None],
) -> None:
    """Move weight files with a number of threads.

    Each thread takes a file of its own, for the system lets one thread at a time write to a file. When none
    is left, it helps with the file that has most pieces left.

    Args:
        shards: The files, in the order in which they are begun.
        g: The gauge.
        workers: The number of threads. Each runs torch on one thread.
        finished: Called with each checked file and its word sum before it gets its name, one at a time, by a
            thread of its own: to replace a small file by another can wait for all that the disk is writing.
        moved: Called with the bytes of each moved piece, one at a time.

    Raises:
        OSError: If a file cannot be written (a full disk), or is not what was to be written.
        ValueError: If a source has changed.
    """
    given = list(shards)
    waiting, opened = given[::-1], []
    workers = max(1, min(workers, sum(len(shard.pieces) for shard in given)))
    lock, tell, stopped = threading.Lock(), threading.Lock(), threading.Event()
    before, records = torch.get_num_threads(), []

    def next_shard() -> Shard | None:
        with lock:
            if stopped.is_set():
                return None
            if waiting:
                begun = waiting.pop()
                begun.open()
                opened.append(begun)  # only now: other workers take pieces of what is listed
                return begun
            shard = max(opened, key=lambda s: s.left, default=None)
            return shard if shard is not None and shard.left else None

    def record(shard: Shard, total: int) -> None:
        finished(shard, total)
        shard.give_name()  # a file that has its name is recorded, and is not written again

    def end(shard: Shard) -> None:
        records.append(recorder.submit(or_stop, record, shard, shard.finish(g)))

    def work() -> None:
        mover = Mover(g)
        while (shard := next_shard()) is not None:
            if not shard.pieces:  # all its tensors are empty
                end(shard)
            while (piece := shard.take()) is not None and not stopped.is_set():
                was_last = shard.move(piece, mover)
                with tell:
                    moved(piece.nbytes)
                if was_last:
                    end(shard)

    def or_stop(task: Callable[..., None], *given: Any) -> None:
        try:
            task(*given)
        except BaseException:
            stopped.set()
            raise

    # each thread would otherwise start a team of OpenMP threads of its own
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    recorder = ThreadPoolExecutor(1)
    try:
        for running in [pool.submit(or_stop, work) for _ in range(workers)]:
            running.result()
        for recorded in records:
            recorded.result()
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
        recorder.shutdown(wait=True)
        torch.set_num_threads(before)
        for shard in given:
            shard.abort()
