"""Measure how fast and how exact streaming moments are, on one thread.

    python experiments/benchmarks/moments.py [--large] [--rows 16384] [--chunk 2048] [--rounds 5]

Rate: `MomentStream.update` over all chunks, without `result()`, against the bare chunked `addmm_(y.T,
x)` that every float32 correlation needs. Reported is the median over rounds of the ratio within a round;
target: 80 %. Precision: the largest error of a correlation against a float64 two-pass over the same
rows, beside that of raw float32 moments. Four coordinates are massive: two have a mean of 1000 standard
deviations, two have spikes of 2000 every 512 tokens; target: 1e-6.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from gaugeport.alignment.moments import MomentStream


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rate(d: int, rows: int, chunk: int, rounds: int) -> str:
    """Return one row of the first table."""
    rng = torch.Generator().manual_seed(d)
    x, y = (torch.randn(rows, d, generator=rng) for _ in range(2))
    chunks = list(zip(x.split(chunk), y.split(chunk), strict=True))
    product = torch.zeros(d, d)

    def bare() -> None:
        for a, b in chunks:
            product.addmm_(b.T, a)

    stream = MomentStream()

    def streamed() -> None:
        for a, b in chunks:
            stream.update(a, b)

    bare()
    streamed()
    times = [(seconds(bare), seconds(streamed)) for _ in range(rounds)]
    ratios = [a / b for a, b in times]
    plain, ours = (median(column) for column in zip(*times, strict=True))
    flops = 2 * rows * d * d / plain / 1e9
    share = median(ratios)
    verdict = "met" if share >= 0.8 else "MISSED"
    spread = f"{min(ratios):.0%} to {max(ratios):.0%}"
    return f"| {d} | {plain:.3f} | {flops:.0f} | {ours:.3f} | {share:.0%} | {spread} | ≥ 80 % {verdict} |"


def massive(rows: int, d: int, ratio: float, first: float) -> tuple[Tensor, Tensor]:
    """Draw correlated rows with means of ``ratio`` deviations; the first 1024 are off by ``first``."""
    rng = torch.Generator().manual_seed(0)
    signal = torch.randn(rows, d, generator=rng)
    sides = []
    for k in range(2):
        x = signal + 0.5 * torch.randn(rows, d, generator=rng) + ratio * torch.linspace(-1, 1, d)
        x[:1024] += first * torch.where(torch.arange(d) % 2 > 0, 1.0, -1.0)
        x[:, 3] += 1000
        x[:, 4 + k] -= 1000
        x[::512, 8] += 2000
        x[::512, 9 + k] -= 2000
        sides.append(x)
    return sides[0], sides[1]


def two_pass(a: Tensor, b: Tensor) -> Tensor:
    x, y = (t.double() - t.double().mean(0) for t in (a, b))
    return (y / y.norm(dim=0)).T @ (x / x.norm(dim=0))


def raw_moments(a: Tensor, b: Tensor, chunk: int) -> Tensor:
    """What not to do: float32 sums of products about zero."""
    cross = torch.zeros(b.shape[1], a.shape[1])
    for x, y in zip(a.split(chunk), b.split(chunk), strict=True):
        cross.addmm_(y.T, x)
    scale_a, scale_b = (t.var(0, correction=0).sqrt() for t in (a, b))
    return (cross / len(a) - b.mean(0)[:, None] * a.mean(0)) / scale_b[:, None] / scale_a


def precision(name: str, rows: int, d: int, chunk: int, ratio: float, first: float) -> str:
    """One row of the second table."""
    a, b = massive(rows, d, ratio, first)
    truth, stream = two_pass(a, b), MomentStream()
    for x, y in zip(a.split(chunk), b.split(chunk), strict=True):
        stream.update(x, y)
    error = float((stream.result().correlation() - truth).abs().max())
    naive = float((raw_moments(a, b, chunk) - truth).abs().max())
    return f"| {name} | {error:.1e} | {naive:.1e} | ≤ 1e-6 {'met' if error <= 1e-6 else 'MISSED'} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", action="store_true", help="d=4096 too")
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{args.rows} rows in chunks of {args.chunk}, {args.rounds} rounds, one thread, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    print("| d | addmm_ s | GFLOP/s | update s | update's rate, of addmm_ | min to max | target |")
    print("|---" * 7 + "|")
    for d in (1024, 2048, 4096) if args.large else (1024, 2048):
        print(rate(d, args.rows, args.chunk, args.rounds), flush=True)
    rows, d = 65536, 512
    print(f"\nmax error of C against a float64 two-pass, d={d}, {rows} rows, massive coordinates in all\n")
    print("| coordinates | stream | raw float32 moments | target |\n|---|---|---|---|")
    for name, ratio, first in (
        ("means up to 3 deviations", 3, 0),
        ("means up to 300 deviations", 300, 0),
        ("first 1024 rows 1 deviation off the rest", 3, 1),
        ("first 1024 rows 10 deviations off the rest", 3, 10),
        ("first 1024 rows 100 deviations off the rest", 3, 100),
    ):
        print(precision(name, rows, d, args.chunk // 2, ratio, first), flush=True)


if __name__ == "__main__":
    main()
