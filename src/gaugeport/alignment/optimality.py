"""Bound how far a matching is from optimal, from a feasible dual solution, without trusting any solver."""

import numpy as np
import torch

from gaugeport.alignment.assignment import as_matrix, entry_range, objective_of

RELATIVE_GAP_PER_ROW = 1e-12
"""Duality gap per row, relative to the range of the scores, at which `optimality_gap` stops."""
ROUNDS_BEFORE_CYCLE_SEARCH = 8
"""Rounds before `optimality_gap` first looks for cycles of rows that gain by passing their columns on."""


def optimality_gap(score: torch.Tensor | np.ndarray, columns: np.ndarray) -> float:
    """Return an upper bound on (optimal objective − objective of ``columns``): ~0 proves them optimal.

    Any u, v with ``u_i + v_j >= W_ij`` everywhere bound the optimum by ``sum u + sum v``. Bellman-Ford: each
    row sets u_i so that its own match is tight, and raises every v_j that is too small for it; rows whose own
    v has been raised since are scanned again. (u, v) is feasible after every round, so the bound is valid
    whenever the search stops: at a gap of ``1e-12 n (max W - min W)``, or after n rounds. Where rows gain by
    passing their columns around a cycle, they do, and the gain is added to the gap, so that for a matching a
    few swaps away from optimal the bound is the loss itself.

    Cost: O(n²) per round; usually tens of rounds, n for matchings far from optimal. Rounding adds about
    ``1e-16 n max|W|``.

    Args:
        score: [n, n], as for :func:`gaugeport.alignment.assignment.solve`.
        columns: integer [n], a permutation of ``range(n)``: the column of each row.

    Returns:
        The bound, at least 0.

    Raises:
        ValueError: for a score that ``solve`` rejects, or columns that are not a permutation.
    """
    w, match = as_matrix(score), _permutation(columns, len(score))
    low, high = entry_range(w)
    tolerance = RELATIVE_GAP_PER_ROW * (high - low) + 4 * np.finfo(np.float64).eps * max(-low, high)
    objective, rows = objective_of(w, match), np.arange(len(w))
    u, v, active, next_search = np.empty(len(w)), np.zeros(len(w)), rows, ROUNDS_BEFORE_CYCLE_SEARCH
    best = float(w.max(1).sum(dtype=np.float64)) - objective
    for step in range(1, len(w) + 1):
        own = w[rows, match].astype(np.float64)
        for i in active[np.argsort(v[match[active]])]:
            u[i] = own[i] - v[match[i]]
            np.maximum(v, w[i] - u[i], out=v)
        slack = v[match] - (own - u)
        best = min(best, float(slack.sum()) + objective_of(w, match) - objective)
        active = np.flatnonzero(slack > tolerance / 2)
        if slack.sum() <= tolerance * len(w):
            break
        if step == next_search:
            next_search = 2 * step
            if _rotate(w, match, u, tolerance):
                active, v, next_search = rows, np.zeros(len(w)), step + ROUNDS_BEFORE_CYCLE_SEARCH
    return max(best, 0.0)


def _rotate(w: np.ndarray, match: np.ndarray, u: np.ndarray, tolerance: float) -> bool:
    """Pass columns around cycles of rows in which each row bids most for the next one's column.

    Changes ``match`` only if that raises the objective, and returns whether it did.
    """
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
    rounding = tolerance * (1 + len(cycle))  # a tie would otherwise look like a gain
    gains = objective_of(w, other) - objective_of(w, match) > rounding
    match[:] = other if gains else match
    return gains


def _permutation(columns: np.ndarray, n: int) -> np.ndarray:
    match = np.asarray(columns)
    is_integer_row = match.shape == (n,) and match.dtype.kind in "iu"
    if not is_integer_row or not np.array_equal(np.sort(match), np.arange(n)):
        raise ValueError(
            f"columns has shape {match.shape}, dtype {match.dtype}; allowed: a permutation of range({n})"
        )
    return match.astype(np.int64)
