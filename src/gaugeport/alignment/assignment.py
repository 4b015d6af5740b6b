"""Exact linear assignment: maximise ``sum_i score[i, columns[i]]`` over permutations, fast on score matrices.

Three steps, each leaving the optimum exact: rows that are decided by inspection are taken out, dual potentials
close to the optimal ones are subtracted from what is left, and scipy's shortest augmenting paths finish.
`optimality_gap` proves a matching optimal without trusting any solver.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

SINKHORN_FROM = 512
"""Remainders at least this large get Sinkhorn potentials; below, scipy alone takes milliseconds."""
STAGES, SWEEPS, COOLING = 5, 8, 4.0
"""Sinkhorn annealing: temperatures at most, sweeps at each, and the factor between them."""
ENOUGH = 0.95
"""Annealing stops once this fraction of the rows prefers a column no other row prefers."""
BLOCK = 256
"""Rows handled at a time, so that a block stays in cache and no n×n temporary is made."""
GAP = 1e-12
"""Relative duality gap, per row and in units of ``max|score|``, at which `optimality_gap` stops."""
PATIENCE = 8
"""Rounds after which `optimality_gap` first looks for cycles of rows that gain by passing their columns on."""


@dataclass(frozen=True)
class Assignment:
    """An optimal matching of rows to columns."""

    columns: np.ndarray
    """int64 [n]: the column of each row, a permutation of ``range(n)``."""
    objective: float
    """``sum_i score[i, columns[i]]``, summed in float64."""
    solver: str
    """What finished it: ``presolve``, ``scipy`` or ``sinkhorn+scipy``."""


def solve(score: torch.Tensor | np.ndarray) -> Assignment:
    """Permutation maximising ``sum_i score[i, columns[i]]``, exactly (float64 arithmetic).

    score: [n, n], finite, any sign; half precisions are read as float32, integers as float64; never modified.
    Raises ValueError unless it is a real, square, non-empty, finite matrix.

    Cost: O(n²) when every row has its own best column; otherwise O(m³) at worst for the m rows the presolve leaves,
    and 8m² bytes beside the input. Why the steps are exact:

    - Presolve: let m be the least entry and ``W_ij + m >= (second best of row i) + (second best of column j)``.
      If a matching sends i to k and l to j instead, then ``W_ij + W_lk >= W_ij + m >= W_ik + W_lj``: swapping is free.
      Each swap satisfies one accepted pair and breaks none, so some optimum contains all of them.
    - Potentials: subtracting g_j from column j lowers every permutation by the same ``sum g``; any g leaves the
      optimum where it is. Good ones make the augmenting paths short.
    """
    w = _matrix(score)
    low, high = _range(w)
    columns = w.argmax(1)
    solver, rows, left = "presolve", columns[:0], columns[:0]
    if _distinct(columns) < len(w):
        rows, left = _presolve(w, columns, low)
    if len(rows):
        cost = np.empty((len(rows), len(rows)))
        potentials = _potentials(w, rows, left, (low, high), cost) if len(rows) >= SINKHORN_FROM else None
        solver = "scipy" if potentials is None else "sinkhorn+scipy"
        offset = 0.0 if potentials is None else (high - low) * potentials.astype(np.float64)
        for at, block in _blocks(w, rows, left):
            np.subtract(offset, block, out=cost[at])
        columns[rows] = left[linear_sum_assignment(cost)[1]]
    return Assignment(columns, _objective(w, columns), solver)


def optimality_gap(score: torch.Tensor | np.ndarray, columns: np.ndarray) -> float:
    """Upper bound on (optimal objective − objective of `columns`), from a feasible dual; ~0 proves optimality.

    score: [n, n] as for `solve`; columns: integer [n], a permutation. Raises ValueError otherwise.

    Any u, v with ``u_i + v_j >= W_ij`` everywhere bound the optimum by ``sum u + sum v``. Bellman-Ford: a row's u is
    what makes its own match tight, and raises every v_j that is too small for it; rows whose own v was raised since
    are scanned again. (u, v) is feasible after every round, so the bound is valid whenever it stops: at a gap of
    ``1e-12 n (max W - min W)``, or after n rounds. Where rows gain by passing their columns around a cycle, they do
    and the gain is added to the gap, so that of a matching a few swaps away from optimal it is the very loss.
    Cost: O(n²) a round, tens of rounds as a rule, n for matchings far from optimal. Rounding adds about ``1e-16 n max|W|``.
    """
    w, match = _matrix(score), _permutation(columns, len(score))
    low, high = _range(w)
    tolerance = GAP * (high - low) + 4 * np.finfo(np.float64).eps * max(-low, high)
    objective, rows = _objective(w, match), np.arange(len(w))
    u, v, active, check = np.empty(len(w)), np.zeros(len(w)), rows, PATIENCE
    best = float(w.max(1).sum(dtype=np.float64)) - objective
    for step in range(1, len(w) + 1):
        own = w[rows, match].astype(np.float64)
        for i in active[np.argsort(v[match[active]])]:
            u[i] = own[i] - v[match[i]]
            np.maximum(v, w[i] - u[i], out=v)
        slack = v[match] - (own - u)
        best = min(best, float(slack.sum()) + _objective(w, match) - objective)
        active = np.flatnonzero(slack > tolerance / 2)
        if slack.sum() <= tolerance * len(w):
            break
        if step == check:
            check = 2 * step
            if _rotate(w, match, u, tolerance):
                active, v, check = rows, np.zeros(len(w)), step + PATIENCE
    return max(best, 0.0)


def _rotate(w: np.ndarray, match: np.ndarray, u: np.ndarray, tolerance: float) -> bool:
    """Pass columns around the cycles of rows in which each bids most for the next one's, if that gains; whether so."""
    bidder, top = np.arange(len(w)), np.full(len(w), tolerance)
    for i in range(len(w)):
        bids = w[i, match] - u[i]
        bids[i] = -np.inf
        higher = bids > top
        bidder[higher], top[higher] = i, bids[higher]
    ends = bidder
    for _ in range(len(w).bit_length()):
        ends = ends[ends]
    cycle = np.unique(ends[bidder[ends] != ends])
    other = match.copy()
    other[bidder[cycle]] = match[cycle]
    gains = _objective(w, other) - _objective(w, match) > tolerance * (1 + len(cycle))  # ties gain nothing
    match[:] = other if gains else match
    return gains


def _matrix(score: torch.Tensor | np.ndarray) -> np.ndarray:
    """The score as a C-ordered float32 or float64 array, without a copy where it is one already."""
    if isinstance(score, torch.Tensor):
        score = score.detach().cpu()
        score = (score.float() if score.dtype in (torch.float16, torch.bfloat16) else score).numpy()
    w = np.asarray(score)
    if w.ndim != 2 or w.shape[0] != w.shape[1] or not w.size:
        raise ValueError(f"score has shape {tuple(w.shape)}; allowed: [n, n] with n >= 1")
    if w.dtype.kind not in "biuf":
        raise ValueError(f"score has dtype {w.dtype}; allowed: real floating point, integer or bool")
    if w.dtype not in (np.float32, np.float64):
        w = w.astype(np.float32 if w.dtype == np.float16 else np.float64)
    return np.ascontiguousarray(w)


def _range(w: np.ndarray) -> tuple[float, float]:
    """Least and greatest entry; both are finite exactly when every entry is."""
    low, high = (float(x) for x in torch.aminmax(torch.from_numpy(w)))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"score has entries from {low} to {high}; allowed: finite values only")
    return low, high


def _permutation(columns: np.ndarray, n: int) -> np.ndarray:
    match = np.asarray(columns)
    if (
        match.shape != (n,)
        or match.dtype.kind not in "iu"
        or not np.array_equal(np.sort(match), np.arange(n))
    ):
        raise ValueError(
            f"columns has shape {match.shape}, dtype {match.dtype}; allowed: a permutation of range({n})"
        )
    return match.astype(np.int64)


def _objective(w: np.ndarray, columns: np.ndarray) -> float:
    return float(w[np.arange(len(w)), columns].sum(dtype=np.float64))


def _distinct(columns: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(columns)))


def _blocks(w: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """``w[rows][:, cols]`` a few rows at a time: (which of `rows`, a fresh copy of that part)."""
    everything = len(cols) == len(w)
    for start in range(0, len(rows), BLOCK):
        at = slice(start, start + BLOCK)
        block = w[rows[at]]
        yield at, block if everything else np.take(block, cols, axis=1)


def _presolve(w: np.ndarray, columns: np.ndarray, low: float) -> tuple[np.ndarray, np.ndarray]:
    """Write the matches that are certain into `columns`; the rows and columns left, while that removes a 16th."""
    rows = cols = np.arange(len(w))
    while len(rows):
        at, to = _certain(w, rows, cols, low)
        columns[rows[at]] = cols[to]
        enough = 16 * len(at) < len(rows)
        rows, cols = np.delete(rows, at), np.delete(cols, to)
        if enough:
            break
    return rows, cols


def _certain(w: np.ndarray, rows: np.ndarray, cols: np.ndarray, low: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j) with ``W_ij + low >= second of row i + second of column j``, as places in `rows` and `cols`."""
    best, first, second = np.empty(len(rows), np.int64), np.empty(len(rows)), np.empty(len(rows))
    column_second = np.full(len(cols), -np.inf)
    for at, block in _blocks(w, rows, cols):
        inside = np.arange(len(block))
        best[at] = block.argmax(1)
        first[at] = block[inside, best[at]]
        block[inside, best[at]] = -np.inf
        second[at] = block.max(1)
        np.maximum(column_second, block.max(0), out=column_second)
    # Of the rows that share a best column only the highest may have it (ties: only one); the next is a column second.
    order = np.lexsort((-first, best))
    leads = np.diff(best[order], prepend=-1) > 0
    follows = order[1:][leads[:-1] & ~leads[1:]]
    column_second[best[follows]] = np.maximum(column_second[best[follows]], first[follows])
    lead = order[leads]
    lead = lead[first[lead] + low >= second[lead] + column_second[best[lead]]]
    return lead, best[lead]


def _potentials(
    w: np.ndarray, rows: np.ndarray, cols: np.ndarray, bounds: tuple[float, float], workspace: np.ndarray
) -> np.ndarray | None:
    """Column potentials g [m] by annealed Sinkhorn in float32, or None where plain scipy is the better choice.

    `workspace`, float64 [m, m], is overwritten: the scaled scores and the kernel are its two float32 halves.
    """
    m, (low, high) = len(rows), bounds
    if not 0 < high - low < np.inf:
        return None
    scaled, kernel = workspace.view(np.float32).reshape(2, m, m)
    spread = ties = 0.0
    for at, block in _blocks(w, rows, cols):
        scaled[at] = (block - low) / (high - low)
        top = scaled[at].max(1, keepdims=True)
        ties += np.count_nonzero(scaled[at] == top) / m
        spread += float((top - scaled[at].mean(1, keepdims=True)).sum()) / m
    if ties >= 2:  # equal scores make scipy's search short; potentials would break the ties and lengthen it
        return None
    return _anneal(scaled, kernel, spread)


def _anneal(scaled: np.ndarray, kernel: np.ndarray, spread: float) -> np.ndarray:
    """Entropic dual potentials at falling temperatures, each stage starting from the last; float32 [m]."""
    g, share, temperature = np.zeros(len(scaled), np.float32), 0.0, 0.0
    for stage in range(STAGES + 1):
        previous, share = share, _reduce(scaled, g, kernel) / len(scaled)
        if share > ENOUGH or stage == STAGES or (stage > 1 and share < previous + 0.01):
            break
        temperature = (
            temperature / COOLING if stage else spread / (4 if share < 0.5 else 32)
        )  # hot when contested
        g -= temperature * _sweep(kernel, temperature)
    return g


def _reduce(scaled: np.ndarray, g: np.ndarray, kernel: np.ndarray) -> int:
    """Write ``scaled - g`` less each row's maximum into `kernel`; how many columns are the best of some row."""
    best = np.empty(len(scaled), np.int64)
    for start in range(0, len(scaled), BLOCK):
        at = slice(start, start + BLOCK)
        block = np.subtract(scaled[at], g, out=kernel[at])
        best[at] = block.argmax(1)
        block -= block.max(1, keepdims=True)
    return _distinct(best)


def _sweep(kernel: np.ndarray, temperature: float) -> np.ndarray:
    """Log of the column scaling of ``exp(kernel / temperature)`` after SWEEPS Sinkhorn sweeps; overwrites `kernel`.

    The bounds keep every product above 1e-37: float32 denormals, which are very slow, cannot arise, and the
    process-wide `torch.set_flush_denormal` is left alone.
    """
    k = torch.from_numpy(kernel).div_(temperature).clamp_(min=-60).exp_()
    b = torch.ones(len(k))
    for _ in range(SWEEPS):
        a = (k @ b).reciprocal_().clamp_(1e-11, 1e11)
        b = (k.T @ a).reciprocal_().clamp_(1e-11, 1e11)
    return b.log_().numpy()
