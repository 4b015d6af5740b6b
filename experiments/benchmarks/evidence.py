"""Measure how fast evidence streams from two running models, against their bare forward passes.

    python experiments/benchmarks/evidence.py MODEL [--sites all block15] [--threads 2] [--cpu-time]

MODEL is a local folder. B is A with noise of .01 of each matrix's standard deviation. Rate: `pair_moments`
over all batches, `result()` included, against both models' forward passes over the same batches, without
unembedding as evidence runs them. Reported is the median over rounds of the ratio within a round; target:
80 %. Tokens are random, those of both passes counted once.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from gaugeport.alignment.evidence import pair_moments
from gaugeport.models.loading import load_model

Batches = list[dict[str, Tensor]]


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


@torch.no_grad()
def noisy(model: Any) -> Any:
    """Return a copy of a model with noise on its matrices."""
    rng, moved = torch.Generator().manual_seed(0), copy.deepcopy(model)
    for p in moved.parameters():
        if p.dim() == 2:
            p.add_(0.01 * p.std() * torch.randn(p.shape, generator=rng))
    return moved


@torch.no_grad()
def bare(models: dict[str, Any], batches: Batches) -> None:
    for batch in batches:
        for model in models.values():
            model.base_model(**batch, use_cache=False)


def rate(
    models: dict[str, Any], batches: Batches, sites: str, rounds: int, clock: Callable[[], float]
) -> str:
    """Return one row of the table."""
    tokens = sum(batch["input_ids"].numel() for batch in batches)
    works = [
        lambda: bare(models, batches),
        lambda: pair_moments(models, [("A", "B")], batches, sites),
    ]
    for work in works:  # warm up
        work()
    times = [[seconds(work, clock) for work in works] for _ in range(rounds)]
    ratios = [forward / streamed for forward, streamed in times]
    forward, streamed = (tokens / median(column) for column in zip(*times, strict=True))
    share, spread = median(ratios), f"{min(ratios):.0%} to {max(ratios):.0%}"
    verdict = "met" if share >= 0.8 else "MISSED"
    return f"| {sites} | {forward:.0f} | {streamed:.0f} | {share:.0%} | {spread} | ≥ 80 % {verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a local folder")
    parser.add_argument("--sites", nargs="+", default=["all", "block15"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine, with --threads 1")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(args.threads)
    model = load_model(args.model, dtype=torch.float32)
    models, rng = {"A": model, "B": noisy(model)}, torch.Generator().manual_seed(0)
    shape, vocabulary = (args.batch_size, args.length), model.config.vocab_size
    batches = [{"input_ids": torch.randint(vocabulary, shape, generator=rng)} for _ in range(args.batches)]
    print(
        f"{args.batches} batches of {args.batch_size} rows of {args.length} tokens, {args.rounds} rounds, "
        f"{args.threads} threads, {clock.__name__}, load {os.getloadavg()[0]:.1f}\n"
    )
    print("| sites | forward tokens/s | evidence tokens/s | evidence's rate | min to max | target |")
    print("|---" * 6 + "|")
    for sites in args.sites:
        print(rate(models, batches, sites, args.rounds, clock), flush=True)


if __name__ == "__main__":
    main()
