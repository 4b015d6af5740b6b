"""Time orthogonal Procrustes against scipy.linalg.orthogonal_procrustes.

    python experiments/benchmarks/procrustes.py [--sizes 512 2048] [--repeats 3] [--threads 2] [--seed 1000]

Runs are interleaved, medians reported. Ours starts from the cross moment, as
`gaugeport.alignment.matchers.procrustes` does; scipy's gets the same matrix as X'Y with X = I, one
product more. Targets on two cores: 10 s at width 2048, 60 s at 4096, orthogonality error at most 1e-6.
Stops with an error if the rotations differ where the cross moment decides them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from gaugeport.alignment.matchers import procrustes
from gaugeport.pipeline.rotation.haar.statistics import orthogonality_error

TARGET_SECONDS = {2048: 10.0, 4096: 60.0}
"""By width."""


def timed(work: Callable[[], Tensor], times: list[float]) -> Tensor:
    start = time.perf_counter()
    result = work()
    times.append(time.perf_counter() - start)
    return result


def cross_moment(d: int, seed: int) -> Tensor:
    """Draw float64[d, d] of two streams that a rotation relates, variances falling as 1/rank, with noise."""
    rng = torch.Generator().manual_seed(seed)
    draw = torch.randn(d, d, generator=rng, dtype=torch.float64)
    mixed = torch.randn(d, d, generator=rng, dtype=torch.float64) / torch.arange(1, d + 1).sqrt()
    return draw @ mixed.T / d + 1e-3 * torch.eye(d, dtype=torch.float64)


def measure(d: int, repeats: int, seed: int) -> str:
    """Return one row of the table."""
    cross = cross_moment(d, seed)
    eye, right = np.eye(d), cross.T.contiguous().numpy()
    ours, scipys = list[float](), list[float]()
    for _ in range(repeats):
        q = timed(lambda: procrustes(cross).gauge.matrix, ours)  # type: ignore[attr-defined]
        other = timed(lambda: torch.from_numpy(orthogonal_procrustes(eye, right)[0]).T, scipys)
    difference = float((q - other).abs().max())
    if difference > 1e-6:
        raise SystemExit(f"d = {d}: the rotations differ by {difference:.2g}")
    error, mine = orthogonality_error(q), median(ours)
    target = (
        f"≤ {TARGET_SECONDS[d]:.0f} s {'met' if mine <= TARGET_SECONDS[d] else 'MISSED'}"
        if d in TARGET_SECONDS
        else "–"
    )
    return (
        f"| {d} | {mine:.2f} | {median(scipys):.2f} | {median(scipys) / mine:.2f} | {error:.1e} | {target} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.repeats} repeats, {args.threads} threads, load {os.getloadavg()[0]:.1f}, seconds\n")
    print("| d | ours | scipy | scipy/ours | orthogonality error | target |")
    print("|---" * 6 + "|")
    for d in args.sizes:
        print(measure(d, args.repeats, args.seed), flush=True)


if __name__ == "__main__":
    main()
