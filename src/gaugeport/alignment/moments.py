"""Streaming centred second moments of paired coordinates: the d×d statistic that activation matching reads.

Centring is what decides precision (PERFORMANCE §3): residual streams carry coordinates whose mean is a thousand
standard deviations, and raw moments lose every digit there, float64 accumulators or not. So each chunk is shifted
by a fixed estimate of the mean before it is multiplied, in float32; the product is flushed into float64 every
``FLUSH_ROWS`` rows; and a chunk that strays from the shift starts a new segment, merged exactly (Chan et al. 1983).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

FLUSH_ROWS = 16_384
"""Rows summed in float32 before the float64 flush: more costs precision, fewer costs time."""

STRAY = 1.0
"""A chunk with which the segment's mean is this many standard deviations off its shift starts a new segment: second
moments about the shift are then 1 + STRAY² times the centred ones, and lose that many times float32's rounding."""

CONSTANT = 1e-13
"""A variance below this share of the squared mean is float32 rounding of a constant."""

VARIES = 1e-6
"""A direction with less than this share of the largest variance is float32 rounding, not variation."""


@dataclass
class Moments:
    """Centred moments of n paired rows: means float64[d], sums of squares float64[d], ``cross`` float64[d_b, d_a]."""

    n: int
    mean_a: Tensor
    mean_b: Tensor
    square_a: Tensor
    square_b: Tensor
    cross: Tensor

    def merge(self, other: Moments) -> Moments:
        """The moments of both samples together (Chan's pairwise update)."""
        n = self.n + other.n
        da, db = other.mean_a - self.mean_a, other.mean_b - self.mean_b
        weight = self.n * other.n / n
        return Moments(
            n,
            self.mean_a + da * (other.n / n),
            self.mean_b + db * (other.n / n),
            self.square_a + other.square_a + da * da * weight,
            self.square_b + other.square_b + db * db * weight,
            (self.cross + other.cross).addr_(db, da, alpha=weight),
        )

    def constant(self) -> tuple[list[int], list[int]]:
        """The coordinates of A and of B that never changed: no activation evidence can place them."""
        return _constant(self.square_a, self.mean_a, self.n), _constant(self.square_b, self.mean_b, self.n)

    def correlation(self) -> Tensor:
        """``C[i, j]``, the correlation of coordinate i of B with coordinate j of A, float64[d_b, d_a].

        Rows and columns of constant coordinates are zero (:meth:`constant` names them).
        """
        scale_a, scale_b = (
            torch.where(s > 0, s, 1.0).rsqrt() * (s > 0) for s in (self.square_a, self.square_b)
        )
        corr = self.cross * scale_b[:, None] * scale_a
        dead_a, dead_b = self.constant()
        corr[:, dead_a] = 0.0
        corr[dead_b] = 0.0
        return corr

    def whitened(self, a: Moments, b: Moments) -> Moments:
        """The moments after ZCA-whitening both sides, given those of A with itself and of B with itself.

        Directions in which a side does not vary stay out. Means are set to zero: they are not whitened.
        """
        (of_a, square_a), (of_b, square_b) = _whitening(a.cross), _whitening(b.cross)
        zero = torch.zeros_like(self.mean_a)
        return Moments(self.n, zero, zero.clone(), square_a, square_b, of_b @ self.cross @ of_a)

    def tensors(self) -> dict[str, Tensor]:
        """The moments as tensors, for a safetensors file (``cross`` in float32, enough for matching)."""
        return {
            "n": torch.tensor(self.n),
            **{k: getattr(self, k) for k in ("mean_a", "mean_b", "square_a", "square_b")},
            "cross": self.cross.to(torch.float32),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Moments:
        """The inverse of :meth:`tensors`."""
        return cls(n=int(tensors["n"]), **{k: v.to(torch.float64) for k, v in tensors.items() if k != "n"})


@dataclass
class MomentStream:
    """Accumulates :class:`Moments` over chunks of paired rows; memory O(d²) whatever the number of rows."""

    name_a: str = "A"
    name_b: str = "B"
    _segment: _Segment | None = None
    _done: Moments | None = None
    _buffers: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, a: Tensor, b: Tensor) -> None:
        """Add rows ``a[n, d_a]`` and ``b[n, d_b]`` (row t of both is the same token).

        Raises ``ValueError`` on rows that do not pair or are not finite, naming the side and the coordinates.
        """
        if a.dim() != 2 or b.dim() != 2 or len(a) != len(b):
            raise ValueError(
                f"paired rows must be [n, d] with one n, found {tuple(a.shape)} and {tuple(b.shape)}"
            )
        if len(a) == 0:
            return
        with torch.autocast(a.device.type, enabled=False):  # sums of products are worth float32
            self._update(a, b)

    def _update(self, a: Tensor, b: Tensor) -> None:
        segment = self._segment or _Segment.start(a, b)
        x, y = self._shifted("a", a, segment.shift_a), self._shifted("b", b, segment.shift_b)
        sums = [_column_sums(x), _column_sums(y)]
        for name, (total, _) in zip((self.name_a, self.name_b), sums, strict=True):
            _check_finite(name, total)
        if segment.strays(len(a), sums):
            self._close()
            segment = _Segment.start(a, b)
            x, y = self._shifted("a", a, segment.shift_a), self._shifted("b", b, segment.shift_b)
            sums = [_column_sums(x), _column_sums(y)]
        segment.add(x, y, sums)
        self._segment = segment

    def result(self) -> Moments:
        """The moments of everything seen so far. Raises ``ValueError`` when nothing was."""
        total = self._combined()
        if total is None:
            raise ValueError("no tokens were accumulated: the batches were empty or fully masked")
        return total

    def _shifted(self, side: str, rows: Tensor, shift: Tensor) -> Tensor:
        buffer = self._buffers.get(side)
        if buffer is None or buffer.shape != rows.shape or buffer.device != rows.device:
            buffer = self._buffers[side] = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
        return (
            torch.sub(rows, shift, out=buffer) if rows.dtype == torch.float32 else buffer.copy_(rows - shift)
        )

    def _combined(self) -> Moments | None:
        if self._segment is None:
            return self._done
        current = self._segment.moments()
        return current if self._done is None else self._done.merge(current)

    def _close(self) -> None:
        self._done, self._segment = self._combined(), None


@dataclass
class _Segment:
    """Rows that share one shift. ``shift`` is any value near the mean: it cancels exactly in :meth:`moments`."""

    shift_a: Tensor
    shift_b: Tensor
    rows: int
    pending: int
    sums: list[tuple[Tensor, Tensor]]
    fast: Tensor
    slow: Tensor

    @classmethod
    def start(cls, a: Tensor, b: Tensor) -> _Segment:
        shift_a, shift_b = (t.mean(0, dtype=torch.float64).to(torch.float32) for t in (a, b))
        shape, device = (b.shape[1], a.shape[1]), a.device
        zeros = [(torch.zeros(t.shape[1], dtype=torch.float64, device=device),) * 2 for t in (a, b)]
        fast = torch.zeros(shape, dtype=torch.float32, device=device)
        return cls(
            shift_a, shift_b, 0, 0, list(zeros), fast, torch.zeros(shape, dtype=torch.float64, device=device)
        )

    def strays(self, n: int, sums: list[tuple[Tensor, Tensor]]) -> bool:
        """Whether with this chunk the mean leaves the shift so far that float32 products about it lose digits."""
        if self.rows == 0:
            return False
        shifts, rows = (self.shift_a, self.shift_b), self.rows + n
        for shift, (total, square), (seen, seen_square) in zip(shifts, sums, self.sums, strict=True):
            mean = (total + seen) / rows
            variance = (square + seen_square) / rows - mean * mean
            rounding = (
                CONSTANT * shift.to(torch.float64) ** 2
            )  # a constant is many of its zero deviations off its mean
            if bool((mean.abs() > STRAY * torch.maximum(variance, rounding).sqrt()).any()):
                return True
        return False

    def add(self, x: Tensor, y: Tensor, sums: list[tuple[Tensor, Tensor]]) -> None:
        self.fast.addmm_(y.T, x)
        self.sums = [(s + t, q + u) for (s, q), (t, u) in zip(self.sums, sums, strict=True)]
        self.rows += len(x)
        self.pending += len(x)
        if self.pending >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self.slow.add_(self.fast)
        self.fast.zero_()
        self.pending = 0

    def moments(self) -> Moments:
        self._flush()
        (sum_a, square_a), (sum_b, square_b) = ((s.cpu(), q.cpu()) for s, q in self.sums)
        n = self.rows
        return Moments(
            n,
            self.shift_a.cpu().to(torch.float64) + sum_a / n,
            self.shift_b.cpu().to(torch.float64) + sum_b / n,
            (square_a - sum_a * sum_a / n).clamp_min(0),
            (square_b - sum_b * sum_b / n).clamp_min(0),
            self.slow.cpu().clone().addr_(sum_b, sum_a, alpha=-1 / n),
        )


def _whitening(scatter: Tensor) -> tuple[Tensor, Tensor]:
    """``S^(-1/2)`` of a scatter matrix [d, d] on the directions it has, and the squares of the whitened coordinates."""
    values, vectors = torch.linalg.eigh((scatter + scatter.T) / 2)
    kept = values > VARIES * values.max()
    basis = vectors[:, kept]
    return (basis * values[kept].rsqrt()) @ basis.T, (basis * basis).sum(1)


def _column_sums(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Column sums and sums of squares, float64[d] each. ``ones @ x`` is the fast float32 column sum (PERFORMANCE §3)."""
    ones = torch.ones(1, len(rows), dtype=rows.dtype, device=rows.device)
    return (ones @ rows)[0].to(torch.float64), (rows * rows).sum(0).to(torch.float64)


def _constant(square: Tensor, mean: Tensor, n: int) -> list[int]:
    # Shifted float32 sums leave a constant coordinate a variance at rounding level of its mean.
    return torch.nonzero(square <= CONSTANT * n * mean * mean).flatten().tolist()


def _check_finite(name: str, total: Tensor) -> None:
    if bool(torch.isfinite(total).all()):
        return
    bad = torch.nonzero(~torch.isfinite(total)).flatten().tolist()
    raise ValueError(
        f"activations of {name} are not finite in {len(bad)} coordinate(s), the first {bad[:5]}: only finite "
        "activations can be matched (a bfloat16 or float16 overflow is the usual cause; load the model in float32)"
    )
