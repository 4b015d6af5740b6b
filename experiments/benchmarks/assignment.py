"""Time the assignment solver against scipy's, on one thread.

    python experiments/benchmarks/assignment.py [--sizes 512 2048 4096] [--repeats 3] [--seed 1000]

Runs are interleaved; a Markdown table of medians is printed. `scipy` starts from the same float32 score
as `gaugeport.alignment.assignment.solve`, so it includes building -W in float64; `LSA` is
linear_sum_assignment alone. Stops with an error if an objective differs. The solver was tuned on seeds 0
and 1: report others.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from gaugeport.alignment.assignment import solve
from gaugeport.alignment.optimality import optimality_gap


def planted(n: int, strength: torch.Tensor, noise: float, cap: float, rng: torch.Generator) -> torch.Tensor:
    """Return |C| of permuted coordinates: `strength` [n] on the matching, half-normal noise elsewhere."""
    score = (torch.randn(n, n, generator=rng) * noise).abs_().clamp_(max=cap)
    score[torch.arange(n), torch.randperm(n, generator=rng)] = strength
    return score


def between(n: int, low: float, high: float, rng: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, generator=rng)


def spectral(spectrum: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Return |C| of two unrelated bases of activations whose covariance has this spectrum [n]."""
    n = len(spectrum)
    x, y = (
        torch.nn.functional.normalize(torch.randn(n, n, generator=rng) * spectrum.sqrt()) for _ in range(2)
    )
    return (x @ y.T).abs_()


def near(n: int, rng: torch.Generator) -> torch.Tensor:
    return planted(n, between(n, 0.65, 0.999, rng), 0.04, 0.16, rng)


def near5(n: int, rng: torch.Generator) -> torch.Tensor:
    lost = n // 20
    strength = torch.cat([between(lost, 0.0, 0.1, rng), between(n - lost, 0.65, 0.999, rng)])
    return planted(n, strength, 0.04, 0.16, rng)


def far(n: int, rng: torch.Generator) -> torch.Tensor:
    weak = int(0.4 * n)
    strength = torch.cat([between(weak, 0.15, 0.3, rng), between(n - weak, 0.3, 0.55, rng)])
    return planted(n, strength, 0.06, 1.0, rng)


def indep(n: int, rng: torch.Generator) -> torch.Tensor:
    return spectral(1.0 / torch.arange(1, n + 1), rng)


def rank1(n: int, rng: torch.Generator) -> torch.Tensor:
    return spectral(torch.cat([torch.tensor([0.5 * n]), torch.ones(n - 1)]), rng)


REGIMES: tuple[Callable[[int, torch.Generator], torch.Tensor], ...] = (near, near5, far, indep, rank1)


def timed(call: Callable[[], float], times: list[float]) -> float:
    start = time.perf_counter()
    result = call()
    times.append(time.perf_counter() - start)
    return result


def scipy_objective(score: torch.Tensor, inner: list[float]) -> float:
    cost = score.double().neg_().numpy()
    columns = np.arange(0)

    def match() -> float:
        nonlocal columns
        columns = linear_sum_assignment(cost)[1]
        return 0.0

    timed(match, inner)
    return -float(cost[np.arange(len(cost)), columns].sum())


def measure(score: torch.Tensor, repeats: int) -> str:
    """One row of the table, less its first two cells."""
    whole, inner, ours, proof = (list[float]() for _ in range(4))
    for _ in range(repeats):
        reference = timed(lambda: scipy_objective(score, inner), whole)
        objective = timed(lambda: solve(score).objective, ours)
        if abs(objective - reference) > 1e-12 * len(score):
            raise SystemExit(f"objective {objective!r} differs from scipy's {reference!r}")
    solution = solve(score)
    gap = timed(lambda: optimality_gap(score, solution.columns), proof)
    a, b, c = median(whole), median(inner), median(ours)
    return (
        f"{solution.solver} | {a:.4f} | {b:.4f} | {c:.4f} | {a / c:.1f} | {b / c:.1f} | {proof[0]:.3f} | "
        f"{gap:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {args.seed}, {args.repeats} repeats, seconds\n")
    print("| n | regime | solver | scipy | LSA | ours | scipy/ours | LSA/ours | optimality_gap | gap |")
    print("|---" * 10 + "|")
    for n in args.sizes:
        for regime in REGIMES:
            score = regime(n, torch.Generator().manual_seed(args.seed))
            print(f"| {n} | {regime.__name__} | {measure(score, args.repeats)}", flush=True)


if __name__ == "__main__":
    main()
