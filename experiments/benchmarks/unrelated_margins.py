"""Calibrate the warning that two models share no base, on pairs that do not and on pairs that do.

    python experiments/benchmarks/unrelated_margins.py [--sides unrelated related] [--widths 64 256]
        [--seeds 20] [--kinds weights site pooled] [--threads 1]

The statistic is the share of margins that are 0 or less: coordinates of B that prefer another partner to the
one the matching gives them. In theory it is a half where nothing is related: in a large random assignment a
row gets its k-th best column with probability 2^-k (Aldous 2001, "The ζ(2) limit in the random assignment
problem"). Entries of real evidence are not independent, so the null is simulated, by width and kind:

- entries: evidence of independent Gaussian entries, the theory's own case;
- weights: the weights of two random Llamas of two blocks;
- streams: independent streams of 4,096 tokens with correlated coordinates, variances falling as 1/rank;
- site, pooled: the activations of those Llamas on the same 4,096 random tokens, after the last block, and
  averaged over all sites.

Related pairs are noisy copies of one Llama, with noise of so many standard deviations of each tensor on
either side and a random gauge planted on B; their evidence is of the kinds that models give. Printed are
the share of coordinates that are right, quantiles of the statistic, and how often `align` warns. The
warning is false where every coordinate is right, and missed where none is related or over half are wrong.
"""

from __future__ import annotations

import argparse
import copy
import os
import warnings
from typing import Any

import torch
from torch import Tensor

from gaugeport.alignment.doubt import WARN_FROM_SHARE
from gaugeport.alignment.evidence import activation_evidence, pair_moments, weight_evidence
from gaugeport.alignment.matchers import Match, hungarian_abs
from gaugeport.alignment.moments import MomentStream
from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import transport_model
from gaugeport.utils.seeds import generator

TOKENS, LENGTH, VOCABULARY = 4_096, 64, 256
OF_MODELS = ("weights", "site", "pooled")
"""The kinds of evidence that models give."""

NOISE = (0.3, 0.35, 0.4, 0.5, 0.7, 1.0, 2.0, 3.0, 4.0)
"""Of related pairs, in standard deviations of each tensor."""


def llama(d: int, *purpose: object) -> Any:
    """Make a random Llama of two blocks with generic gains."""
    sizes = {"vocab_size": VOCABULARY, "intermediate_size": 2 * d, "max_position_embeddings": LENGTH}
    return tiny_model("llama", generator(0, "llama", d, *purpose), d, **sizes)


@torch.no_grad()
def noisy(model: Any, scale: float, seed: int, side: str) -> Any:
    """Return a copy with Gaussian noise of ``scale`` standard deviations on every tensor."""
    draw, moved = generator(seed, "noise", side), copy.deepcopy(model)
    for p in moved.parameters():
        p.add_(scale * p.std() * torch.randn(p.shape, generator=draw))
    return moved


def streams(d: int, seed: int) -> Tensor:
    """Return the correlation of two independent streams whose coordinates are correlated."""
    sides = []
    for side in "ab":
        draw = generator(seed, "streams", side, d)
        mix = torch.randn(d, d, generator=draw) / torch.arange(1, d + 1).sqrt()
        sides.append(torch.randn(TOKENS, d, generator=draw) @ mix.T)
    stream = MomentStream()
    stream.update(*sides)
    return stream.result().correlation()


def evidence_of(a: Any, b: Any, kind: str, seed: int) -> Tensor:
    """Return one kind of evidence between two models."""
    if kind == "weights":
        return weight_evidence(a, b)
    draw = generator(seed, "tokens")
    rows = torch.randint(VOCABULARY, (TOKENS // LENGTH, LENGTH), generator=draw)
    sites = ["block1"] if kind == "site" else "all"
    moments = pair_moments(
        {"A": a, "B": b}, [("A", "B")], [{"input_ids": r} for r in rows.split(16)], sites, skip_first=0
    )["A", "B"]
    return activation_evidence(moments, list(moments))


def unrelated(kind: str, d: int, seed: int) -> Match:
    """Match a pair that has nothing in common."""
    if kind == "entries":
        return hungarian_abs(torch.randn(d, d, generator=generator(seed, "entries", d)))
    if kind == "streams":
        return hungarian_abs(streams(d, seed))
    return hungarian_abs(evidence_of(llama(d, seed, "a"), llama(d, seed, "b"), kind, seed))


def related(kind: str, d: int, noise: float, seed: int) -> tuple[Match, float]:
    """Match two noisy copies of one model, and return the share of coordinates that are right too."""
    base = llama(d, seed, "base")
    planted = SignedPermutation.random(d, generator(seed, "plant", d))
    b = transport_model(noisy(base, noise, seed, "b"), planted)
    found = hungarian_abs(evidence_of(noisy(base, noise, seed, "a"), b, kind, seed))
    assert isinstance(found.gauge, SignedPermutation)
    right = (found.gauge.perm == planted.perm) & (found.gauge.sign == planted.sign)
    return found, float(right.double().mean())


def share(match: Match) -> float:
    return float((match.margin <= 0).double().mean())


def quantiles(values: list[float]) -> str:
    found = torch.quantile(torch.tensor(values), torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]))
    return " | ".join(f"{v:.3f}" for v in found.tolist())


def measure_unrelated(kinds: list[str], widths: list[int], seeds: int) -> None:
    print("| unrelated | width | pairs | least | 10 % | median | 90 % | most | missed |")
    print("|---" * 9 + "|")
    for kind in kinds:
        for d in widths:
            shares = [share(unrelated(kind, d, seed)) for seed in range(seeds)]
            missed = sum(s < WARN_FROM_SHARE for s in shares)
            print(f"| {kind} | {d} | {seeds} | {quantiles(shares)} | {missed} |", flush=True)


def measure_related(kinds: list[str], widths: list[int], seeds: int) -> None:
    print("| related | width | noise | pairs | right | least | 10 % | median | 90 % | most | warned |")
    print("|---" * 11 + "|")
    false, all_right, missed, mostly_wrong = 0, 0, 0, 0
    for kind in kinds:
        for d in widths:
            for noise in NOISE:
                found = [related(kind, d, noise, seed) for seed in range(seeds)]
                shares, rights = [share(match) for match, _ in found], [right for _, right in found]
                warned = [s >= WARN_FROM_SHARE for s in shares]
                place = f"{kind} | {d} | {noise} | {seeds} | {sum(rights) / seeds:.2f}"
                print(f"| {place} | {quantiles(shares)} | {sum(warned)} |", flush=True)
                for is_warned, right in zip(warned, rights, strict=True):
                    all_right += right == 1
                    false += right == 1 and is_warned
                    mostly_wrong += right < 0.5
                    missed += right < 0.5 and not is_warned
    print(f"\nfalse: {false} of {all_right} pairs that are all right")
    print(f"missed: {missed} of {mostly_wrong} pairs with over half of their coordinates wrong")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ["entries", "weights", "streams", "site", "pooled"]
    parser.add_argument("--sides", nargs="+", default=["unrelated", "related"])
    parser.add_argument("--kinds", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256, 576])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # a token id of 0 is padding to transformers
    print(f"seeds 0 to {args.seeds - 1}, load {os.getloadavg()[0]:.1f}\n")
    if "unrelated" in args.sides:
        measure_unrelated(args.kinds, args.widths, args.seeds)
        print()
    if "related" in args.sides:
        measure_related([k for k in args.kinds if k in OF_MODELS], args.widths, args.seeds)


if __name__ == "__main__":
    main()
