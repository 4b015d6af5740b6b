"""``solve`` agrees with scipy on many kinds of scores; ``optimality_gap`` agrees with known losses."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from gaugeport.alignment import assignment
from gaugeport.alignment.assignment import solve
from gaugeport.alignment.optimality import optimality_gap


def planted(n: int, rng: np.random.Generator, strength: np.ndarray) -> np.ndarray:
    score = np.minimum(np.abs(rng.normal(0, 0.04, (n, n))), 0.16)
    score[np.arange(n), rng.permutation(n)] = strength
    return score


def near5(n: int, rng: np.random.Generator) -> np.ndarray:
    strength = rng.uniform(0.65, 0.999, n)
    strength[: max(1, n // 20)] = 0.05
    return planted(n, rng, strength)


def sparse(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.random((n, n)) * (rng.random((n, n)) < 3 / n)


Maker = Callable[[int, np.random.Generator], np.ndarray]
KINDS: dict[str, Maker] = {
    "uniform": lambda n, rng: rng.random((n, n)),
    "float32": lambda n, rng: rng.random((n, n), dtype=np.float32),
    "ties": lambda n, rng: rng.integers(0, 4, (n, n)).astype(float),
    "integers": lambda n, rng: rng.integers(-50, 50, (n, n)),
    "constant": lambda n, rng: np.full((n, n), 0.3),
    "zeros": lambda n, rng: np.zeros((n, n)),
    "rank1": lambda n, rng: np.outer(rng.random(n), rng.random(n)),
    "rank1 with ties": lambda n, rng: np.outer(rng.integers(1, 6, n), rng.integers(1, 6, n)) / 7.0,
    "row plus column": lambda n, rng: np.add.outer(rng.random(n), rng.random(n)),
    "near": lambda n, rng: planted(n, rng, rng.uniform(0.65, 0.999, n)),
    "near5": near5,
    "far": lambda n, rng: planted(n, rng, rng.uniform(0.05, 0.4, n)),
    "sparse": sparse,
    "tiny": lambda n, rng: 1e-6 * rng.random((n, n)),
    "negative": lambda n, rng: -rng.random((n, n)),
    "mixed signs": lambda n, rng: rng.normal(size=(n, n)),
    "one outlier": lambda n, rng: np.where(np.arange(n * n).reshape(n, n) == n, -1e6, rng.random((n, n))),
}


def same_as_scipy(score: np.ndarray) -> assignment.Assignment:
    solution = solve(score)
    n, exact = len(score), np.asarray(score, np.float64)
    assert solution.columns.dtype == np.int64 and np.array_equal(np.sort(solution.columns), np.arange(n))
    rows, columns = linear_sum_assignment(-exact)
    size = np.abs(exact).max()
    assert solution.objective == pytest.approx(
        exact[rows, solution.columns].sum(), rel=0, abs=1e-14 * n * size
    )
    assert solution.objective == pytest.approx(exact[rows, columns].sum(), rel=0, abs=1e-14 * n * size)
    return solution


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_objective_equals_scipys(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for n in (1, 2, 3, 4, 5, 8, 13, 31, 64, 120):
        for _ in range(5 if n < 10 else 1):
            same_as_scipy(KINDS[kind](n, rng))


@pytest.mark.parametrize("kind", KINDS)
def test_sinkhorn_path_is_exact_on_small_scores(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "SINKHORN_MIN_ROWS", 2)
    monkeypatch.setattr(assignment, "BLOCK_ROWS", 7)
    rng = np.random.default_rng(7)
    for n in (2, 3, 5, 8, 13, 64, 120):
        same_as_scipy(KINDS[kind](n, rng))


def near_rank1(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.outer(rng.random(n), rng.random(n)) + 1e-6 * rng.random((n, n))


@pytest.mark.parametrize(
    ("make", "n", "solver"),
    [
        (KINDS["uniform"], 1100, "sinkhorn+scipy"),
        (near_rank1, 1100, "sinkhorn+scipy"),
        (lambda n, rng: KINDS["rank1"](n, rng).astype(np.float32), 1100, "sinkhorn+scipy"),
        (KINDS["mixed signs"], 1100, "sinkhorn+scipy"),
        (lambda n, rng: planted(n, rng, rng.uniform(0.1, 0.2, n)), 1300, "sinkhorn+scipy"),
        (KINDS["ties"], 1100, "scipy"),
        (KINDS["constant"], 1100, "scipy"),
        (KINDS["near"], 1100, "presolve"),
    ],
)
def test_large_scores_are_solved_by_the_expected_step(make: Maker, n: int, solver: str) -> None:
    score = make(n, np.random.default_rng(3))
    solution = same_as_scipy(score)
    assert solution.solver == solver
    assert optimality_gap(score, solution.columns) <= 1e-9 * n * np.abs(score).max()


def test_mutual_best_pair_may_be_wrong() -> None:
    solution = solve(np.array([[10.0, 9.0], [9.0, 0.0]]))
    assert solution.objective == 18.0 and solution.columns.tolist() == [1, 0]


def test_presolve_accepts_one_of_the_rows_tied_for_a_column() -> None:
    # Both rows are best in column 0 and only one may have it; the other is that column's second best.
    assert solve(np.array([[1.0, 0.5], [1.0, 0.0]])).objective == 1.5
    assert solve(np.array([[1.0, 0.0], [1.0, 0.5]])).objective == 1.5
    # The same with a negative smallest entry.
    assert solve(np.array([[3.0, 1.0], [1.0, -5.0]])).objective == 2.0
    for bits in range(3**9):  # every 3×3 score with entries 0, 1, 2
        score = np.array([bits // 3**k % 3 for k in range(9)], float).reshape(3, 3)
        best = max(
            score[0, i] + score[1, j] + score[2, 3 - i - j] for i in range(3) for j in range(3) if i != j
        )
        assert solve(score).objective == best


def test_float32_scores_keep_their_last_bits() -> None:
    # 1 - W in float32 would round entries of this size to one value.
    score = (1e-6 * np.random.default_rng(0).random((60, 60))).astype(np.float32)
    same_as_scipy(score)
    same_as_scipy(score + np.float32(1e-3))


def denormals_survive() -> bool:
    return bool((torch.tensor([1e-40]) * torch.ones(1) != 0).item())


def test_denormal_mode_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    # torch.set_flush_denormal would change the whole process.
    monkeypatch.setattr(assignment, "SINKHORN_MIN_ROWS", 2)
    for flush in (True, False):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor has no flush mode")
        before = denormals_survive()
        assert solve(near_rank1(200, np.random.default_rng(0))).solver == "sinkhorn+scipy"
        assert denormals_survive() == before
    assert before


def test_tensors_of_any_dtype_are_solved_and_not_modified() -> None:
    score = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    kept = score.clone()
    for same in (score, score.double(), score.T.contiguous().T, score.requires_grad_()):
        assert solve(same).objective == pytest.approx(solve(kept.numpy()).objective, rel=1e-15)
    assert torch.equal(score.detach(), kept)
    for dtype in (torch.bfloat16, torch.float16, torch.int64, torch.bool):
        same_as_scipy((10 * kept).to(dtype).to(torch.float64).numpy())
        assert solve((10 * kept).to(dtype)).objective == solve((10 * kept).to(dtype).double()).objective


@pytest.mark.parametrize("kind", KINDS)
def test_optimality_gap_proves_the_optimum_and_measures_a_swap(kind: str) -> None:
    rng = np.random.default_rng(11)
    for n in (2, 5, 30, 90):
        score = KINDS[kind](n, rng)
        score = score.astype(np.float64)
        columns, scale = solve(score).columns, np.abs(score).max() * n
        assert 0 <= optimality_gap(score, columns) <= 1e-10 * scale
        for _ in range(3):
            i, j = rng.choice(n, 2, replace=False)
            worse = columns.copy()
            worse[[i, j]] = columns[[j, i]]
            loss = float(score[[i, j], columns[[i, j]]].sum() - score[[i, j], worse[[i, j]]].sum())
            assert optimality_gap(score, worse) >= loss - 1e-13 * scale


def test_optimality_gap_bounds_a_matching_far_from_optimal() -> None:
    rng = np.random.default_rng(0)
    for kind in ("uniform", "rank1", "far", "mixed signs", "ties"):
        score, columns = KINDS[kind](60, rng), rng.permutation(60)
        loss = solve(score).objective - score[np.arange(60), columns].sum()
        assert loss - 1e-12 <= optimality_gap(score, columns) < np.inf


def test_optimality_gap_of_one_swap_is_its_loss() -> None:
    score = planted(80, np.random.default_rng(0), np.linspace(0.5, 0.9, 80))
    best = solve(score)
    worse = best.columns.copy()
    worse[[3, 5]] = worse[[5, 3]]
    loss = best.objective - score[np.arange(80), worse].sum()
    assert optimality_gap(score, worse) == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\).*\[n, n\]"),
        (np.zeros((0, 0)), r"shape \(0, 0\).*n >= 1"),
        (np.zeros(4), r"shape \(4,\)"),
        (torch.zeros(2, 2, 2), r"shape \(2, 2, 2\)"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "nan.*finite"),
        (torch.tensor([[1.0, float("inf")], [0.0, 1.0]]), "inf.*finite"),
        (np.array([[1.0, -np.inf], [0.0, 1.0]]), "-inf.*finite"),
        (np.eye(2, dtype=complex), "complex128.*real"),
    ],
)
def test_bad_scores_are_rejected(score: np.ndarray | torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(score)
    with pytest.raises(ValueError, match=message):
        optimality_gap(score, np.arange(2))


@pytest.mark.parametrize("columns", [[0, 0], [0, 1, 2], [0.0, 1.0], [1, 2], [-1, 0]])
def test_optimality_gap_requires_a_permutation(columns: list) -> None:
    with pytest.raises(ValueError, match="permutation of range"):
        optimality_gap(np.eye(2), np.array(columns))
