"""Time transports of directions, magnitudes and index lists: 10 000 vectors of width 4096, on the CPU.

    python experiments/benchmarks/transport_vectors.py [--dtypes float32 bfloat16] [--rounds 9]

Every round times, one after the other, ``copy_`` of the tensor into a warm buffer, the transport into
that buffer (``out=``), a ``clone``, the transport into a new tensor (whose pages have to be found
first), and the plain ``v[:, perm] * sign``. Reported are medians over rounds of the times and of the
ratios to the ``copy_`` of the same round. The last row moves a list of 10 000 indices out of 16 384,
checks included, against ``copy_`` of that list and against the bare ``index_select``.

With ``--threads 1`` (the default) CPU seconds are counted instead of wall time, which says more on
shared cores. ``--vectors`` changes how many vectors there are.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from gaugeport.groups import SignedPermutation
from gaugeport.transport.directions import transport_direction, transport_magnitude
from gaugeport.transport.indices import transport_indices


def seconds(work: Callable[[], object]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def medians(
    works: dict[str, Callable[[], object]], rounds: int, repeats: int = 1
) -> dict[str, tuple[float, float]]:
    """Return by name the seconds and the ratio to the first of ``works``: medians over interleaved rounds."""
    for work in works.values():
        work()  # warm
    rows = [
        {k: seconds(lambda w=w: [w() for _ in range(repeats)]) for k, w in works.items()}
        for _ in range(rounds)
    ]
    first = next(iter(works))
    return {
        k: (statistics.median(r[k] for r in rows) / repeats, statistics.median(r[k] / r[first] for r in rows))
        for k in works
    }


def vectors(dtype: torch.dtype, n: int, d: int, rounds: int) -> dict[str, tuple[float, float]]:
    generator = torch.Generator().manual_seed(0)
    v, out = torch.randn(n, d, generator=generator).to(dtype), torch.zeros(n, d, dtype=dtype)
    g = SignedPermutation.random(d, generator)
    sign = g.sign.to(dtype)
    if not torch.equal(transport_direction(v, g), v[:, g.perm] * sign):
        raise SystemExit("the transported directions differ from v[:, perm] * sign")
    works: dict[str, Callable[[], object]] = {
        "copy_": lambda: out.copy_(v),
        "direction, out=": lambda: transport_direction(v, g, out=out),
        "clone": lambda: v.clone(),
        "direction": lambda: transport_direction(v, g),
        "magnitude, out=": lambda: transport_magnitude(v, g, out=out),
        "v[:, perm] * sign": lambda: v[:, g.perm] * sign,
    }
    return medians(works, rounds)


def indices(n: int, d: int, rounds: int) -> dict[str, tuple[float, float]]:
    generator = torch.Generator().manual_seed(0)
    g = SignedPermutation.random(d, generator)
    listed = torch.randperm(d, generator=generator)[:n]
    out, back = torch.zeros_like(listed), torch.argsort(g.perm)
    if not torch.equal(transport_indices(listed, g).index, back[listed]):
        raise SystemExit("the transported indices differ from argsort(perm)[indices]")
    works: dict[str, Callable[[], object]] = {
        "copy_": lambda: out.copy_(listed),
        "index_select": lambda: torch.index_select(back, 0, listed, out=out),
        "transport_indices": lambda: transport_indices(listed, g),
    }
    return medians(works, rounds, repeats=20)


def show(what: str, found: dict[str, tuple[float, float]]) -> None:
    for name, (time_s, ratio) in found.items():
        print(f"{what:24} {name:20} {1e3 * time_s:9.3f} {ratio:8.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--vectors", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{os.cpu_count()} CPUs, {args.threads} threads, load {os.getloadavg()[0]:.1f}, {args.rounds} rounds"
    )
    print(f"{'of what':24} {'how':20} {'ms':>9} {'/ copy_':>8}")
    for dtype in args.dtypes:
        found = vectors(getattr(torch, dtype), args.vectors, args.width, args.rounds)
        show(f"{args.vectors} x {args.width} {dtype}", found)
    show("10000 indices of 16384", indices(10_000, 16_384, args.rounds))


if __name__ == "__main__":
    main()
