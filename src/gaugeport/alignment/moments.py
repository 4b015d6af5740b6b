"""Accumulate centred second moments of paired coordinates: the d×d statistic that activation matching reads.

Residual streams have coordinates whose mean is a thousand standard deviations. Uncentred moments lose every
digit there, even with float64 accumulators. So :class:`MomentStream` works in three steps:

1. It subtracts a fixed estimate of the mean from each chunk before it multiplies, in float32.
2. It adds the product to a float64 total every ``FLUSH_ROWS`` rows.
3. When the mean drifts too far from the estimate, it starts a new segment with a new estimate. Segments are
   merged exactly (Chan et al. 1983).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

FLUSH_ROWS = 16_384
"""Rows summed in float32 before they are added to the float64 total: more cost precision, fewer cost time."""

MAX_MEAN_OFFSET_IN_STDS = 1.0
"""A segment ends when its mean is this many standard deviations off its shift. Second moments about the shift
are then 1 + MAX_MEAN_OFFSET_IN_STDS² times the centred ones, and lose that many times float32's rounding."""

CONSTANT_VARIANCE_SHARE = 1e-13
"""A variance below this share of the squared mean is float32 rounding of a constant coordinate."""

MIN_VARIANCE_SHARE = 1e-6
"""A direction with less than this share of the largest variance is float32 rounding, not variation."""


Sums = tuple[Tensor, Tensor]
"""Column sums and column sums of squares, float64[d] each."""


@dataclass
class Moments:
    """Centred moments of n paired rows of A and B."""

    n: int
    """Number of rows."""
    mean_a: Tensor
    """float64[d_a]."""
    mean_b: Tensor
    """float64[d_b]."""
    square_a: Tensor
    """Sums of squares about the mean, float64[d_a]."""
    square_b: Tensor
    """Sums of squares about the mean, float64[d_b]."""
    cross: Tensor
    """Sums of products about the means, float64[d_b, d_a]."""
    left_out: int = 0
    """Number of further rows that were left out because they are massive in A or B."""

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both samples together (Chan's pairwise update)."""
        n = self.n + other.n
        difference_a, difference_b = other.mean_a - self.mean_a, other.mean_b - self.mean_b
        weight = self.n * other.n / n
        return Moments(
            n,
            self.mean_a + difference_a * (other.n / n),
            self.mean_b + difference_b * (other.n / n),
            self.square_a + other.square_a + difference_a * difference_a * weight,
            self.square_b + other.square_b + difference_b * difference_b * weight,
            (self.cross + other.cross).addr_(difference_b, difference_a, alpha=weight),
            self.left_out + other.left_out,
        )

    def constant(self) -> tuple[list[int], list[int]]:
        """Return the coordinates of A and those of B that never change: activations cannot place them."""
        return _constant(self.square_a, self.mean_a, self.n), _constant(self.square_b, self.mean_b, self.n)

    def correlation(self) -> Tensor:
        """Return C float64[d_b, d_a]: the correlation of each coordinate i of B with each coordinate j of A.

        Rows and columns of constant coordinates are zero (:meth:`constant` lists them).
        """
        scale_a, scale_b = (
            torch.where(s > 0, s, 1.0).rsqrt() * (s > 0) for s in (self.square_a, self.square_b)
        )
        correlation = self.cross * scale_b[:, None] * scale_a
        constant_a, constant_b = self.constant()
        correlation[:, constant_a] = 0.0
        correlation[constant_b] = 0.0
        return correlation

    def whitened(self, a: Moments, b: Moments) -> Moments:
        """Return the moments after ZCA-whitening each side.

        Directions in which a side does not vary are left out. The returned means are zero, because means are
        not whitened.

        Args:
            a: moments of A with itself.
            b: moments of B with itself.
        """
        (whiten_a, square_a), (whiten_b, square_b) = _whitening(a.cross), _whitening(b.cross)
        zero = torch.zeros_like(self.mean_a)
        cross = whiten_b @ self.cross @ whiten_a
        return Moments(self.n, zero, zero.clone(), square_a, square_b, cross, self.left_out)

    def tensors(self) -> dict[str, Tensor]:
        """Return the moments as tensors to store (``cross`` in float32, which is enough for matching)."""
        return {
            "n": torch.tensor(self.n),
            "left_out": torch.tensor(self.left_out),
            "mean_a": self.mean_a,
            "mean_b": self.mean_b,
            "square_a": self.square_a,
            "square_b": self.square_b,
            "cross": self.cross.to(torch.float32),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Moments:
        """Return the moments that :meth:`tensors` gave."""
        sums = {k: v.to(torch.float64) for k, v in tensors.items() if k not in ("n", "left_out")}
        return cls(n=int(tensors["n"]), left_out=int(tensors.get("left_out", 0)), **sums)


@dataclass
class MomentStream:
    """Accumulate :class:`Moments` over chunks of paired rows, in O(d²) memory however many rows there are."""

    name_a: str = "A"
    """What errors call the first side."""
    name_b: str = "B"
    """What errors call the second side."""
    _segment: _Segment | None = None
    _done: Moments | None = None
    _buffers: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, a: Tensor, b: Tensor) -> None:
        """Add paired rows.

        Args:
            a: float[n, d_a], rows of A.
            b: float[n, d_b], rows of B; row t is the same token as row t of ``a``.

        Raises:
            ValueError: for rows that do not pair or are not finite; the message names the side and
                coordinates.
        """
        if a.dim() != 2 or b.dim() != 2 or len(a) != len(b):
            raise ValueError(
                f"expected paired rows [n, d_a] and [n, d_b], got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        if len(a) == 0:
            return
        with torch.autocast(a.device.type, enabled=False):  # sums of products need float32
            self._update(a, b)

    def _update(self, a: Tensor, b: Tensor) -> None:
        segment = self._segment or _Segment.start(a, b)
        x, y, sums = self._shifted_rows(segment, a, b)
        for name, (total, _) in zip((self.name_a, self.name_b), sums, strict=True):
            _check_finite(name, total)
        if segment.drifts_with(len(a), sums):
            self._close_segment()
            segment = _Segment.start(a, b)
            x, y, sums = self._shifted_rows(segment, a, b)
        segment.add(x, y, sums)
        self._segment = segment

    def result(self) -> Moments:
        """Return the moments of all rows so far. Raises ``ValueError`` if there are none."""
        total = self._combined()
        if total is None:
            raise ValueError("no tokens were accumulated: the batches were empty or fully masked")
        return total

    def _shifted_rows(self, segment: _Segment, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, list[Sums]]:
        """Return both sides' rows minus the segment's shifts, and their column sums."""
        x, y = self._shifted("a", a, segment.shift_a), self._shifted("b", b, segment.shift_b)
        return x, y, [_column_sums(x), _column_sums(y)]

    def _shifted(self, side: str, rows: Tensor, shift: Tensor) -> Tensor:
        buffer = self._buffers.get(side)
        if buffer is None or buffer.shape != rows.shape or buffer.device != rows.device:
            buffer = self._buffers[side] = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
        if rows.dtype == torch.float32:
            return torch.sub(rows, shift, out=buffer)
        return buffer.copy_(rows - shift)

    def _combined(self) -> Moments | None:
        if self._segment is None:
            return self._done
        current = self._segment.moments()
        return current if self._done is None else self._done.merge(current)

    def _close_segment(self) -> None:
        self._done, self._segment = self._combined(), None


@dataclass
class _Segment:
    """Rows that share one shift: any value near their mean. The shift cancels exactly in :meth:`moments`."""

    shift_a: Tensor
    shift_b: Tensor
    rows: int
    rows_not_flushed: int
    sums: list[Sums]
    cross32: Tensor
    """Sum of products of the rows that are not flushed, float32[d_b, d_a]."""
    cross64: Tensor
    """Sum of products of the flushed rows, float64[d_b, d_a]."""

    @classmethod
    def start(cls, a: Tensor, b: Tensor) -> _Segment:
        shift_a, shift_b = (t.mean(0, dtype=torch.float64).to(torch.float32) for t in (a, b))
        device, shape = a.device, (b.shape[1], a.shape[1])
        zeros = [torch.zeros(t.shape[1], dtype=torch.float64, device=device) for t in (a, b)]
        return cls(
            shift_a,
            shift_b,
            rows=0,
            rows_not_flushed=0,
            sums=[(zero, zero) for zero in zeros],
            cross32=torch.zeros(shape, dtype=torch.float32, device=device),
            cross64=torch.zeros(shape, dtype=torch.float64, device=device),
        )

    def drifts_with(self, n: int, sums: list[Sums]) -> bool:
        """Return whether n further rows move the mean so far off the shift that float32 loses digits."""
        if self.rows == 0:
            return False
        shifts, rows = (self.shift_a, self.shift_b), self.rows + n
        for shift, (total, square), (seen, seen_square) in zip(shifts, sums, self.sums, strict=True):
            mean = (total + seen) / rows
            variance = (square + seen_square) / rows - mean * mean
            # A constant coordinate has no variance, so that rounding alone would look like drift.
            rounding = CONSTANT_VARIANCE_SHARE * shift.to(torch.float64) ** 2
            limit = MAX_MEAN_OFFSET_IN_STDS * torch.maximum(variance, rounding).sqrt()
            if bool((mean.abs() > limit).any()):
                return True
        return False

    def add(self, x: Tensor, y: Tensor, sums: list[Sums]) -> None:
        """Add shifted rows ``x`` of A and ``y`` of B, with their column sums."""
        self.cross32.addmm_(y.T, x)
        self.sums = [(s + t, q + u) for (s, q), (t, u) in zip(self.sums, sums, strict=True)]
        self.rows += len(x)
        self.rows_not_flushed += len(x)
        if self.rows_not_flushed >= FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self.cross64.add_(self.cross32)
        self.cross32.zero_()
        self.rows_not_flushed = 0

    def moments(self) -> Moments:
        """Return the centred moments of the rows so far."""
        self._flush()
        (sum_a, square_a), (sum_b, square_b) = ((s.cpu(), q.cpu()) for s, q in self.sums)
        n = self.rows
        return Moments(
            n,
            self.shift_a.cpu().to(torch.float64) + sum_a / n,
            self.shift_b.cpu().to(torch.float64) + sum_b / n,
            (square_a - sum_a * sum_a / n).clamp_min(0),
            (square_b - sum_b * sum_b / n).clamp_min(0),
            self.cross64.cpu().clone().addr_(sum_b, sum_a, alpha=-1 / n),
        )


def _whitening(scatter: Tensor) -> tuple[Tensor, Tensor]:
    """Return S^(-1/2) of a scatter matrix S [d, d], and the whitened coordinates' sums of squares [d].

    Directions without variance are left out.
    """
    values, vectors = torch.linalg.eigh((scatter + scatter.T) / 2)
    kept = values > MIN_VARIANCE_SHARE * values.max()
    basis = vectors[:, kept]
    return (basis * values[kept].rsqrt()) @ basis.T, (basis * basis).sum(1)


def _column_sums(rows: Tensor) -> Sums:
    # In float32, a product with ones is the fastest way to sum columns.
    ones = torch.ones(1, len(rows), dtype=rows.dtype, device=rows.device)
    return (ones @ rows)[0].to(torch.float64), (rows * rows).sum(0).to(torch.float64)


def _constant(square: Tensor, mean: Tensor, n: int) -> list[int]:
    # Float32 sums of a constant coordinate have a variance at the level of its mean's rounding error.
    return torch.nonzero(square <= CONSTANT_VARIANCE_SHARE * n * mean * mean).flatten().tolist()


def _check_finite(name: str, total: Tensor) -> None:
    if bool(torch.isfinite(total).all()):
        return
    bad = torch.nonzero(~torch.isfinite(total)).flatten().tolist()
    raise ValueError(
        f"activations of {name} are not finite in {len(bad)} coordinate(s), the first {bad[:5]}: only "
        "finite ones can be matched (the usual cause is a bfloat16 or float16 overflow: load in float32)"
    )
