"""Time SAE transport: a standard SAE of width 2048 with 16,384 latents (random), on the CPU.

    python experiments/benchmarks/transport_sae.py [--dtypes float32 bfloat16] [--rounds 9] [--threads 2]

Every round times, one after the other:

- a warm ``copy_`` of every parameter into its own memory;
- ``transport_sae(..., out=...)`` into its own memory;
- the same into fresh memory, beside a ``clone`` of every parameter (what fresh pages cost by themselves);
- the plain ``W[p] * s[:, None]``, ``W[:, p] * s``.

Reported are medians over rounds of the times and of the ratios within a round: to the ``copy_``, and to
the ``clone`` for fresh memory. Target: at most 4 copies in float32, 5 in bfloat16, as for models.

Where other processes share the cores, two-thread times say little, because a ``copy_`` waits for its
slower half: use ``--threads 1``, which counts CPU seconds instead of wall time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from sae_lens import StandardSAE, StandardSAEConfig

from gaugeport.groups import SignedPermutation
from gaugeport.transport.sae import transport_sae

TARGETS = {"float32": 4.0, "bfloat16": 5.0}


def plain_transport(sae: StandardSAE, g: SignedPermutation) -> list[torch.Tensor]:
    """Transport an SAE with the obvious code: index, multiply."""
    sign = g.sign.to(sae.W_enc.dtype)
    return [
        sae.W_enc.data[g.perm] * sign[:, None],
        sae.W_dec.data[:, g.perm] * sign,
        sae.b_dec.data[g.perm] * sign,
    ]


def copy_all(sae: StandardSAE, buffers: list[torch.Tensor]) -> None:
    for p, buffer in zip(sae.parameters(), buffers, strict=True):
        buffer.copy_(p.data)


def seconds(work: Callable[[], object]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def measure(name: str, d: int, n: int, rounds: int) -> str:
    """Return one line of the report: medians over ``rounds`` for one dtype."""
    sae = StandardSAE(StandardSAEConfig(d_in=d, d_sae=n, dtype=name))
    g = SignedPermutation.random(d, torch.Generator().manual_seed(0))
    buffers = [torch.zeros_like(p) for p in sae.parameters()]
    out = transport_sae(sae, g)
    works: list[Callable[[], object]] = [
        lambda: copy_all(sae, buffers),
        lambda: transport_sae(sae, g, out=out),
        lambda: [p.data.clone() for p in sae.parameters()],
        lambda: transport_sae(sae, g),
        lambda: plain_transport(sae, g),
    ]
    for work in works:
        work()
    rows = [[seconds(work) for work in works] for _ in range(rounds)]
    copies, ours, clones, fresh, plain = (statistics.median(column) for column in zip(*rows, strict=True))
    ratios = [row[1] / row[0] for row in rows]
    ratio = statistics.median(ratios)
    to_clone, naive = (statistics.median(row[i] / row[j] for row in rows) for i, j in ((3, 2), (4, 0)))
    verdict = "met" if ratio <= TARGETS[name] else "MISSED"
    return (
        f"{name:9} {copies:8.4f} {ours:9.4f}  {ratio:5.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        f"  {clones:8.4f} {fresh:9.4f} {to_clone:6.2f}  {plain:8.4f} {naive:6.1f}"
        f"   ≤ {TARGETS[name]:.0f} {verdict}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=list(TARGETS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--latents", type=int, default=16384)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{os.cpu_count()} CPUs, {args.threads} threads, load {os.getloadavg()[0]:.1f}, {args.rounds} rounds"
    )
    print(
        "dtype       copy_ s  into out  ratio (min-max)     clone s   fresh s  ratio "
        "  plain s  ratio   target"
    )
    for name in args.dtypes:
        print(measure(name, args.width, args.latents, args.rounds))


if __name__ == "__main__":
    main()
