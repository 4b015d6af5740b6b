"""Apply one gauge element to axes of many tensors, fast and in place (or into memory that is given).

Large contiguous CPU tensors under a signed permutation take one of three kernels. All are bit-equal to
``g.act`` and ``g.act_gain``; ``experiments/benchmarks`` measures them:

* columns (last axis) move in blocks of rows that fit the cache, through one reused scratch block;
* 16-bit columns are gathered by numpy, because torch's 16-bit ``index_select`` takes 5 times as long per
  element as its float32 one; a sign flips the sign bit by an exclusive or;
* rows (first axis) are gathered from one scratch copy of the tensor.

Slices of rows go to a few threads, because ``index_select`` over columns uses one thread only. Rotations,
other devices, small tensors and other layouts take the plain ``g.act``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.groups.element import check_axis

ROWS_PER_BLOCK = 64
ROWS_PER_16_BIT_BLOCK = 256  # fewer returns to Python: experiments/benchmarks/transport_checkpoint.py
BYTES_PER_GATHER = 1 << 21
ELEMENTS_PER_ROTATION_BLOCK = 1 << 22
MAX_THREADS = 8
MIN_ELEMENTS_FOR_KERNELS = 1 << 16
DTYPES_16_BIT = (torch.bfloat16, torch.float16)


class InPlace:
    """Apply one element ``g`` in place, and reuse scratch memory and threads from tensor to tensor.

    Used as a context manager, it hands slices of rows to ``torch.get_num_threads()`` worker threads (at most
    8). Each worker runs torch on one thread. Without ``with`` it works on the calling thread.
    """

    def __init__(self, g: SignedPermutation | Orthogonal):
        self.g = g
        self._scratch: dict[tuple[torch.dtype, int], Tensor] = {}
        self._sign: dict[torch.dtype, Tensor | None] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._threads = 1

    def __enter__(self) -> Self:
        self._restore = torch.get_num_threads()
        self._threads = min(self._restore, MAX_THREADS) if isinstance(self.g, SignedPermutation) else 1
        if self._threads > 1:
            # each worker thread would otherwise start its own team of OpenMP threads
            self._pool = ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            torch.set_num_threads(self._restore)
        self._scratch.clear()

    @torch.no_grad()
    def vector(self, x: Tensor, axis: int) -> None:
        """Replace ``x`` by ``g.act(x, axis)``. Raises ``ValueError`` if the axis has another width."""
        self._move(x, axis, signed=True)

    @torch.no_grad()
    def gain(self, x: Tensor, axis: int) -> None:
        """Replace ``x`` by ``g.act_gain(x, axis)``: permute only. Raises ``ValueError`` for a rotation."""
        self._move(x, axis, signed=False)

    def by_kinds(self, x: Tensor, kinds: Iterable[str]) -> None:
        """Act in place on every axis of a tensor, as a chart names them.

        Args:
            x: The tensor.
            kinds: One word per axis: "vector" (permuted and signed, or rotated), "gain" (permuted; a rotation
                leaves it as it is) or "none".

        Raises:
            ValueError: If a vector or gain axis has another width than the gauge.
        """
        for axis, kind in enumerate(kinds):
            if kind == "vector":
                self.vector(x, axis)
            elif kind == "gain" and isinstance(self.g, SignedPermutation):
                self.gain(x, axis)

    @torch.no_grad()
    def vector_into(self, x: Tensor, axes: tuple[int, ...], out: Tensor) -> None:
        """Act on some axes of ``x`` and write the result to ``out``.

        Bit-equal to ``g.act``, except that a rotation of two axes is rounded once. Tensors on the meta device
        are left alone.

        Args:
            x: The tensor to read.
            axes: The axes to act on, as vectors.
            out: A tensor like ``x`` that receives the result.

        Raises:
            ValueError: If one of the axes has another width than the gauge.
        """
        if x.is_meta:
            return
        g = self.g
        large = x.dim() == 2 and x.numel() >= MIN_ELEMENTS_FOR_KERNELS and x.device.type == "cpu"
        if (
            large
            and axes == (0,)
            and isinstance(g, SignedPermutation)
            and x.is_contiguous()
            and out.is_contiguous()
        ):
            self._rows_into(x, out)
        elif len(axes) > 1 and isinstance(g, Orthogonal):
            out.copy_(g.act(g.act(x.double(), axes[0]), axes[1]))
        else:
            out.copy_(x)
            for axis in axes:
                self.vector(out, axis)

    def _move(self, x: Tensor, axis: int, signed: bool) -> None:
        g = self.g
        check_axis(x, axis, g.size)
        axis %= x.dim()
        plain = g.act if signed else g.act_gain
        if isinstance(g, Orthogonal):
            _rotate(x, axis, plain)
            return
        if x.dim() == 2 and not x.is_contiguous() and x.T.is_contiguous():
            x, axis = x.T, 1 - axis
        large = x.device.type == "cpu" and x.is_contiguous() and x.numel() >= MIN_ELEMENTS_FOR_KERNELS
        if not large or not x.is_floating_point():
            x.copy_(plain(x, axis))
        elif axis == x.dim() - 1:
            rows = x.view(-1, g.size)
            work = self._columns_16_bit if x.dtype in DTYPES_16_BIT else self._columns
            self._share(len(rows), lambda k, a, b: work(rows[a:b], signed, k))
        elif axis == 0:
            self._rows(x.view(g.size, -1), signed)
        else:
            x.copy_(plain(x, axis))

    def _share(self, n: int, work: Callable[[int, int, int], object]) -> None:
        """Run ``work(thread, start, stop)`` over equal slices of ``range(n)``."""
        if self._pool is None:
            work(0, 0, n)
            return
        cuts = [n * k // self._threads for k in range(self._threads + 1)]
        slices = [self._pool.submit(work, k, cuts[k], cuts[k + 1]) for k in range(self._threads)]
        for one in slices:
            one.result()

    def _signs(self, dtype: torch.dtype) -> Tensor | None:
        """Return the signs to multiply with *before* the permutation; None if all are +1.

        Each sign stands where its coordinate comes from. For 16-bit dtypes it is the sign bit to flip, as
        int16.
        """
        assert isinstance(self.g, SignedPermutation)
        if dtype not in self._sign:
            before = torch.empty_like(self.g.sign)
            before[self.g.perm] = self.g.sign
            if not bool((before < 0).any()):
                self._sign[dtype] = None
            elif dtype in DTYPES_16_BIT:
                self._sign[dtype] = torch.where(before < 0, -0x8000, 0).to(torch.int16)
            else:
                self._sign[dtype] = before.to(dtype)
        return self._sign[dtype]

    def _scratch_block(self, dtype: torch.dtype, thread: int, numel: int) -> Tensor:
        block = self._scratch.get((dtype, thread))
        if block is None or block.numel() < numel:
            block = self._scratch[dtype, thread] = torch.empty(numel, dtype=dtype)
        return block[:numel]

    # Copying a block in order into the scratch and gathering from there is faster than gathering from the
    # tensor: the processor prefetches ordered reads only. That first pass also applies the signs.

    def _columns(self, rows: Tensor, signed: bool, thread: int) -> None:
        assert isinstance(self.g, SignedPermutation)
        d, sign = self.g.size, self._signs(rows.dtype) if signed else None
        scratch = self._scratch_block(rows.dtype, thread, ROWS_PER_BLOCK * d).view(ROWS_PER_BLOCK, d)
        for block in rows.split(ROWS_PER_BLOCK):
            signed_block = scratch[: len(block)]
            if sign is None:
                signed_block.copy_(block)
            else:
                torch.mul(block, sign, out=signed_block)
            torch.index_select(signed_block, 1, self.g.perm, out=block)

    def _columns_16_bit(self, rows: Tensor, signed: bool, thread: int) -> None:
        """Move rows as int16, through numpy: its ``take`` is 3 times as fast there as ``index_select``."""
        assert isinstance(self.g, SignedPermutation)
        d, perm, bits = self.g.size, self.g.perm.numpy(), rows.view(torch.int16)
        flips = self._signs(rows.dtype) if signed else None
        scratch = self._scratch_block(torch.int16, thread, ROWS_PER_16_BIT_BLOCK * d).view(-1, d)
        for block in bits.split(ROWS_PER_16_BIT_BLOCK):
            signed_block = scratch[: len(block)]
            if flips is None:
                signed_block.copy_(block)
            else:
                torch.bitwise_xor(block, flips, out=signed_block)
            # no index of a permutation lies outside; "clip" spares take a buffered copy of ``out``
            np.take(signed_block.numpy(), perm, axis=1, out=block.numpy(), mode="clip")

    def _rows(self, x: Tensor, signed: bool) -> None:
        assert isinstance(self.g, SignedPermutation)
        perm, sign = self.g.perm, self._signs(x.dtype) if signed else None
        if x.dtype in DTYPES_16_BIT:
            x = x.view(torch.int16)
        scratch = self._scratch_block(x.dtype, -1, x.numel()).view_as(x)

        def copy_signed(thread: int, a: int, b: int) -> None:
            if sign is None:
                scratch[a:b].copy_(x[a:b])
            else:
                flip = torch.bitwise_xor if x.dtype == torch.int16 else torch.mul
                flip(x[a:b], sign[a:b, None], out=scratch[a:b])

        self._share(len(x), copy_signed)
        self._share(len(x), lambda thread, a, b: torch.index_select(scratch, 0, perm[a:b], out=x[a:b]))

    def _rows_into(self, x: Tensor, out: Tensor) -> None:
        """Gather rows straight from ``x``, a few cached megabytes at a time; a sign flips the top bit."""
        g = self.g
        assert isinstance(g, SignedPermutation)
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
        rows, into = x.view(bits), out.view(bits)
        flips = (g.sign < 0).to(bits)[:, None] << 8 * x.element_size() - 1
        step = max(1, BYTES_PER_GATHER // (x[0].numel() * x.element_size()))

        def gather(thread: int, start: int, stop: int) -> None:
            for a in range(start, stop, step):
                b = min(a + step, stop)
                torch.index_select(rows, 0, g.perm[a:b], out=into[a:b]).bitwise_xor_(flips[a:b])

        self._share(g.size, gather)


def _rotate(x: Tensor, axis: int, act: Callable[[Tensor, int], Tensor]) -> None:
    """Rotate in blocks of the first axis, so that the float64 temporary stays small."""
    if x.dim() < 2 or axis == 0:
        x.copy_(act(x, axis))
        return
    for block in x.split(max(1, ELEMENTS_PER_ROTATION_BLOCK // max(1, x.shape[1:].numel()))):
        block.copy_(act(block, axis))
