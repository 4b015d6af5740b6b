"""The fast action of one gauge element on one axis of many tensors, in place or into memory that is there.

Three techniques, all bit-equal to ``g.act`` / ``g.act_gain`` (measured in ``experiments/benchmarks``, PERFORMANCE §4):

* columns (last axis) in blocks of rows that fit the cache, through one reused scratch block;
* 16-bit columns by packing two rows into 32-bit words, because torch's 16-bit ``index_select`` is 5 times slower per
  element than its float32 one; the sign is an exclusive or of the sign bit;
* rows (first axis) gathered from one scratch copy of the tensor.

Row slices go to a few threads, because ``index_select`` over columns is single-threaded. Rotations, other devices and
odd layouts take the plain ``act``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from gaugeport.groups import Orthogonal, SignedPermutation

COLUMN_BLOCK = 64
HALF_BLOCK = 512
ROTATION_BLOCK = 1 << 22
MAX_THREADS = 8
SMALL = 1 << 16
HALVES = (torch.bfloat16, torch.float16)


class InPlace:
    """Applies one element ``g`` in place, keeping scratch memory and threads from tensor to tensor.

    A context manager: inside, row slices go to ``torch.get_num_threads()`` worker threads (at most 8), each of which
    runs torch single-threaded.
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
        """``x <- g.act(x, axis)``. Raises ``ValueError`` where that axis is not of the gauge's width."""
        self._move(x, axis, signed=True)

    @torch.no_grad()
    def gain(self, x: Tensor, axis: int) -> None:
        """``x <- g.act_gain(x, axis)``: permute only. Raises ``ValueError`` for a rotation."""
        self._move(x, axis, signed=False)

    @torch.no_grad()
    def vector_into(self, x: Tensor, axes: tuple[int, ...], out: Tensor) -> None:
        """``out <- g`` acting on these axes of ``x``; bit-equal to ``g.act``, but one rounding for two axes."""
        if x.is_meta:
            return
        g = self.g
        large = x.dim() == 2 and x.numel() >= SMALL and x.device.type == "cpu"
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
        if x.dim() == 0 or not -x.dim() <= axis < x.dim() or x.shape[axis] != g.size:
            raise ValueError(
                f"axis {axis} of a tensor of shape {tuple(x.shape)} is not the gauge's width {g.size}"
            )
        axis %= x.dim()
        plain = g.act if signed else g.act_gain
        if isinstance(g, Orthogonal):
            _rotate(x, axis, plain)
            return
        if x.dim() == 2 and not x.is_contiguous() and x.T.is_contiguous():
            x, axis = x.T, 1 - axis
        if x.device.type != "cpu" or not x.is_contiguous() or x.numel() < SMALL or not x.is_floating_point():
            x.copy_(plain(x, axis))
        elif axis == x.dim() - 1:
            rows = x.view(-1, g.size)
            work = self._half_columns if x.dtype in HALVES else self._columns
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
        for done in [self._pool.submit(work, k, cuts[k], cuts[k + 1]) for k in range(self._threads)]:
            done.result()

    def _signs(self, dtype: torch.dtype) -> Tensor | None:
        """What to multiply with *before* the permutation (``sign`` carried to where each coordinate comes from).

        For 16-bit dtypes the sign bit to flip, as int16. None where all signs are +1.
        """
        assert isinstance(self.g, SignedPermutation)
        if dtype not in self._sign:
            before = torch.empty_like(self.g.sign)
            before[self.g.perm] = self.g.sign
            if not bool((before < 0).any()):
                self._sign[dtype] = None
            elif dtype in HALVES:
                self._sign[dtype] = torch.where(before < 0, -0x8000, 0).to(torch.int16)
            else:
                self._sign[dtype] = before.to(dtype)
        return self._sign[dtype]

    def _block(self, dtype: torch.dtype, thread: int, numel: int) -> Tensor:
        held = self._scratch.get((dtype, thread))
        if held is None or held.numel() < numel:
            held = self._scratch[dtype, thread] = torch.empty(numel, dtype=dtype)
        return held[:numel]

    # Reading a block in order and gathering from the scratch beats gathering from it directly: only the ordered read
    # is prefetched. The signs ride on that first pass.

    def _columns(self, rows: Tensor, signed: bool, thread: int) -> None:
        assert isinstance(self.g, SignedPermutation)
        d, sign = self.g.size, self._signs(rows.dtype) if signed else None
        scratch = self._block(rows.dtype, thread, COLUMN_BLOCK * d).view(COLUMN_BLOCK, d)
        for block in rows.split(COLUMN_BLOCK):
            held = scratch[: len(block)]
            if sign is None:
                held.copy_(block)
            else:
                torch.mul(block, sign, out=held)
            torch.index_select(held, 1, self.g.perm, out=block)

    def _half_columns(self, rows: Tensor, signed: bool, thread: int) -> None:
        """Two rows ``a``, ``b`` at a time as one 32-bit row ``a << 16 | b``, which has a fast gather."""
        assert isinstance(self.g, SignedPermutation)
        d, perm, bits = self.g.size, self.g.perm, rows.view(torch.int16)
        flips = self._signs(rows.dtype) if signed else None
        if flips is None:
            flips = torch.zeros(d, dtype=torch.int16)
        if len(bits) % 2:
            bits[-1] = (bits[-1] ^ flips)[perm]
        pair = HALF_BLOCK // 2
        words = self._block(torch.int32, thread, 2 * pair * d).view(2, pair, d)
        both = (flips.to(torch.int32) << 16) | (flips.to(torch.int32) & 0xFFFF)
        for block in bits[: len(bits) // 2 * 2].split(HALF_BLOCK):
            n = len(block) // 2
            packed, moved = words[0, :n], words[1, :n]
            packed.copy_(block[:n])
            moved.copy_(
                block[n:].view(torch.uint16)
            )  # zero-extended: adding it borrows nothing from the upper half
            torch.add(moved, packed, alpha=1 << 16, out=packed).bitwise_xor_(both)
            torch.index_select(packed.view(torch.float32), 1, perm, out=moved.view(torch.float32))
            block[n:].copy_(moved)
            block[:n].copy_(moved.bitwise_right_shift_(16))

    def _rows(self, x: Tensor, signed: bool) -> None:
        assert isinstance(self.g, SignedPermutation)
        perm, sign = self.g.perm, self._signs(x.dtype) if signed else None
        if x.dtype in HALVES:
            x = x.view(torch.int16)
        held = self._block(x.dtype, -1, x.numel()).view_as(x)

        def hold(thread: int, a: int, b: int) -> None:
            if sign is None:
                held[a:b].copy_(x[a:b])
            else:
                flip = torch.bitwise_xor if x.dtype == torch.int16 else torch.mul
                flip(x[a:b], sign[a:b, None], out=held[a:b])

        self._share(len(x), hold)
        self._share(len(x), lambda thread, a, b: torch.index_select(held, 0, perm[a:b], out=x[a:b]))

    def _rows_into(self, x: Tensor, out: Tensor) -> None:
        """Gather rows straight from ``x``, a cacheful at a time; a sign is the top bit."""
        g = self.g
        assert isinstance(g, SignedPermutation)
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
        rows, into, flips = (
            x.view(bits),
            out.view(bits),
            (g.sign < 0).to(bits)[:, None] << 8 * x.element_size() - 1,
        )
        step = max(1, (1 << 21) // (x[0].numel() * x.element_size()))

        def gather(thread: int, start: int, stop: int) -> None:
            for a in range(start, stop, step):
                b = min(a + step, stop)
                torch.index_select(rows, 0, g.perm[a:b], out=into[a:b]).bitwise_xor_(flips[a:b])

        self._share(g.size, gather)


def _rotate(x: Tensor, axis: int, act: Callable[[Tensor, int], Tensor]) -> None:
    """A rotation in blocks of the first axis, so that the float64 temporary stays small beside the model."""
    if x.dim() < 2 or axis == 0:
        x.copy_(act(x, axis))
        return
    for block in x.split(max(1, ROTATION_BLOCK // max(1, x[0].numel()))):
        block.copy_(act(block, axis))
