"""Solve linear assignment exactly: maximise ``sum_i score[i, columns[i]]`` over permutations.

Three steps, each of which keeps the optimum exact:

1. Take out the rows whose column is certain by inspection.
2. From the rest, subtract dual potentials that are close to the optimal ones.
3. Finish with scipy's shortest augmenting paths.

On the score matrices of matching this is faster than scipy alone. :mod:`gaugeport.alignment.optimality`
bounds how far a matching is from optimal without trusting any solver.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

SINKHORN_MIN_ROWS = 512
"""Fewest remaining rows that get Sinkhorn potentials; for fewer, scipy alone takes milliseconds."""
MAX_TEMPERATURES = 5
"""Most temperatures in Sinkhorn annealing."""
SWEEPS_PER_TEMPERATURE = 8
COOLING_FACTOR = 4.0
"""Each temperature is the previous one divided by this."""
SHARE_OF_ROWS_TO_STOP_ANNEALING = 0.95
"""Annealing stops once this share of the columns is some row's best."""
BLOCK_ROWS = 256
"""Rows handled at a time, so that a block stays in cache and no n×n temporary is made."""


@dataclass(frozen=True)
class Assignment:
    """An optimal matching of rows to columns."""

    columns: np.ndarray
    """int64 [n]: the column of each row, a permutation of ``range(n)``."""
    objective: float
    """``sum_i score[i, columns[i]]``, summed in float64."""
    solver: str
    """The step that completed it: ``presolve``, ``scipy`` or ``sinkhorn+scipy``."""


def solve(score: torch.Tensor | np.ndarray) -> Assignment:
    """Return the permutation that maximises ``sum_i score[i, columns[i]]``, exactly in float64 arithmetic.

    Cost: O(n²) if every row has its own best column; otherwise at most O(m³) time and 8m² bytes for the m
    rows that the presolve leaves. Why the steps are exact:

    - Presolve: let m be the smallest entry and ``W_ij + m >= (second best of row i) + (second best of column
      j)``. If a matching sends i to k and l to j instead, then ``W_ij + W_lk >= W_ij + m >= W_ik + W_lj``:
      swapping loses nothing. Each swap satisfies one accepted pair and breaks none, so some optimum contains
      all of them.
    - Potentials: subtracting g_j from column j lowers every permutation by the same ``sum g``. Any g keeps
      the optimum; good ones make the augmenting paths short.

    Args:
        score: [n, n], finite, any sign. Half precisions are read as float32, integers as float64. Not
            modified.

    Returns:
        The matching, its objective, and the step that completed it.

    Raises:
        ValueError: unless ``score`` is a real, square, non-empty, finite matrix.
    """
    w = as_matrix(score)
    low, high = entry_range(w)

    # 1) rows with a best column of their own, and those that the presolve decides
    columns = w.argmax(1)
    solver, rows, left = "presolve", columns[:0], columns[:0]
    if _n_distinct(columns) < len(w):
        rows, left = _presolve(w, columns, low)

    # 2) potentials for the rest, 3) and scipy
    if len(rows):
        cost = np.empty((len(rows), len(rows)))
        potentials = None
        if len(rows) >= SINKHORN_MIN_ROWS:
            potentials = _potentials(w, rows, left, (low, high), cost)
        solver = "scipy" if potentials is None else "sinkhorn+scipy"
        offset = 0.0 if potentials is None else (high - low) * potentials.astype(np.float64)
        for at, block in _blocks(w, rows, left):
            np.subtract(offset, block, out=cost[at])
        columns[rows] = left[linear_sum_assignment(cost)[1]]
    return Assignment(columns, objective_of(w, columns), solver)


def as_matrix(score: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return the score as a C-ordered float32 or float64 array, without a copy if it is one already."""
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


def entry_range(w: np.ndarray) -> tuple[float, float]:
    """Return the smallest and largest entry, which are finite exactly if every entry is."""
    low, high = (float(x) for x in torch.aminmax(torch.from_numpy(w)))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"score has entries from {low} to {high}; allowed: finite values only")
    return low, high


def objective_of(w: np.ndarray, columns: np.ndarray) -> float:
    return float(w[np.arange(len(w)), columns].sum(dtype=np.float64))


def _n_distinct(columns: np.ndarray) -> int:
    return int(np.count_nonzero(np.bincount(columns)))


def _blocks(w: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield ``w[rows][:, cols]`` a few rows at a time: (which of ``rows``, a fresh copy of that part)."""
    all_columns = len(cols) == len(w)
    for start in range(0, len(rows), BLOCK_ROWS):
        at = slice(start, start + BLOCK_ROWS)
        block = w[rows[at]]
        yield at, block if all_columns else np.take(block, cols, axis=1)


def _presolve(w: np.ndarray, columns: np.ndarray, low: float) -> tuple[np.ndarray, np.ndarray]:
    """Write the certain matches into ``columns``, and return the rows and columns that are left.

    Repeats as long as a round removes at least a sixteenth of the rows.
    """
    rows = cols = np.arange(len(w))
    while len(rows):
        at, to = _certain(w, rows, cols, low)
        columns[rows[at]] = cols[to]
        removed_few = 16 * len(at) < len(rows)
        rows, cols = np.delete(rows, at), np.delete(cols, to)
        if removed_few:
            break
    return rows, cols


def _certain(w: np.ndarray, rows: np.ndarray, cols: np.ndarray, low: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs (i, j) with ``W_ij + low >= second of row i + second of column j``.

    They are given as positions in ``rows`` and in ``cols``.
    """
    best, first, second = np.empty(len(rows), np.int64), np.empty(len(rows)), np.empty(len(rows))
    column_second = np.full(len(cols), -np.inf)
    for at, block in _blocks(w, rows, cols):
        inside = np.arange(len(block))
        best[at] = block.argmax(1)
        first[at] = block[inside, best[at]]
        block[inside, best[at]] = -np.inf
        second[at] = block.max(1)
        np.maximum(column_second, block.max(0), out=column_second)
    # Of the rows that share a best column, only the highest may have it (with ties, only one of them); the
    # next highest counts as that column's second best.
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
    """Return column potentials g [m] from annealed Sinkhorn in float32, or None if plain scipy is faster.

    ``workspace`` float64[m, m] is overwritten: its two float32 halves hold the scaled scores and the kernel.
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
    if ties >= 2:  # ties make scipy's search short; potentials would break them and lengthen it
        return None
    return _anneal(scaled, kernel, spread)


def _anneal(scaled: np.ndarray, kernel: np.ndarray, spread: float) -> np.ndarray:
    """Return entropic dual potentials float32[m], found at falling temperatures."""
    g, share, temperature = np.zeros(len(scaled), np.float32), 0.0, 0.0
    for stage in range(MAX_TEMPERATURES + 1):
        previous, share = share, _reduce(scaled, g, kernel) / len(scaled)
        stalled = stage > 1 and share < previous + 0.01
        if share > SHARE_OF_ROWS_TO_STOP_ANNEALING or stage == MAX_TEMPERATURES or stalled:
            break
        if stage == 0:
            temperature = spread / (4 if share < 0.5 else 32)  # hotter if many rows contest the same columns
        else:
            temperature /= COOLING_FACTOR
        g -= temperature * _sweep(kernel, temperature)
    return g


def _reduce(scaled: np.ndarray, g: np.ndarray, kernel: np.ndarray) -> int:
    """Write ``scaled - g`` minus each row's maximum to ``kernel``.

    Return how many columns are the best of some row.
    """
    best = np.empty(len(scaled), np.int64)
    for start in range(0, len(scaled), BLOCK_ROWS):
        at = slice(start, start + BLOCK_ROWS)
        block = np.subtract(scaled[at], g, out=kernel[at])
        best[at] = block.argmax(1)
        block -= block.max(1, keepdims=True)
    return _n_distinct(best)


def _sweep(kernel: np.ndarray, temperature: float) -> np.ndarray:
    """Return the log of the column scaling of ``exp(kernel / temperature)`` after some Sinkhorn sweeps.

    Overwrites ``kernel``. The bounds keep every product above 1e-37, so that float32 denormals, which are
    very slow, cannot arise and the process-wide ``torch.set_flush_denormal`` need not be changed.
    """
    k = torch.from_numpy(kernel).div_(temperature).clamp_(min=-60).exp_()
    b = torch.ones(len(k))
    for _ in range(SWEEPS_PER_TEMPERATURE):
        a = (k @ b).reciprocal_().clamp_(1e-11, 1e11)
        b = (k.T @ a).reciprocal_().clamp_(1e-11, 1e11)
    return b.log_().numpy()
