"""Time parameter transport of a TinyLlama-shaped model (1.1 billion random parameters), in place, on the
CPU.

    python experiments/benchmarks/transport_model.py [--dtypes float32 bfloat16] [--rounds 5] [--layers 22]

Every round times, one after the other, a warm ``copy_`` of every tensor into one reused buffer,
``transport_model(..., inplace=True)`` and the plain ``W[:, p] * s``. Reported are medians over rounds of
the times and of the ratios to the ``copy_`` of the same round. Target with two threads: at most 4 copies
in float32, 5 in bfloat16.

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
from transformers import LlamaConfig, LlamaForCausalLM

from gaugeport.charts import chart_of
from gaugeport.groups import SignedPermutation
from gaugeport.transport import transport_model

TARGETS = {"float32": 4.0, "bfloat16": 5.0}


def tinyllama_shaped(dtype: torch.dtype, layers: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(dtype)
    model = model.to_empty(device="cpu")
    for p in model.parameters():
        p.data.fill_(0.5)  # touch every page; values do not matter to the clock
    return model


def plain_transport(model: LlamaForCausalLM, g: SignedPermutation) -> None:
    """Transport a model with the obvious code: index, multiply, assign."""
    chart = chart_of(model)
    for name, p in model.named_parameters():
        sign = g.sign.to(p.dtype)
        for axis, kind in enumerate(chart.axes(name)):
            if kind == "vector":
                p.data = p.data[:, g.perm] * sign if axis == 1 else p.data[g.perm] * sign[:, None]
            elif kind == "gain":
                p.data = p.data[g.perm]


def copy_all(model: LlamaForCausalLM, buffer: torch.Tensor) -> None:
    for p in model.parameters():
        buffer[: p.numel()].copy_(p.data.view(-1))


def seconds(work: Callable[[], object]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def measure(name: str, layers: int, rounds: int) -> str:
    """One line of the report: medians over ``rounds`` for one dtype."""
    model = tinyllama_shaped(getattr(torch, name), layers)
    g = SignedPermutation.random(2048, torch.Generator().manual_seed(0))
    buffer = torch.zeros(max(p.numel() for p in model.parameters()), dtype=getattr(torch, name))
    works: list[Callable[[], object]] = [
        lambda: copy_all(model, buffer),
        lambda: transport_model(model, g, inplace=True),
        lambda: plain_transport(model, g),
    ]
    works[0]()
    works[1]()
    rows = [[seconds(work) for work in works] for _ in range(rounds)]
    copies, ours, plain = (statistics.median(column) for column in zip(*rows, strict=True))
    ratios = [row[1] / row[0] for row in rows]
    ratio, naive = statistics.median(ratios), statistics.median(row[2] / row[0] for row in rows)
    params = sum(p.numel() for p in model.parameters()) / 1e9
    verdict = "met" if ratio <= TARGETS[name] else "MISSED"
    return (
        f"{name:9} {params:6.2f} G {copies:8.3f} {ours:11.3f}  "
        f"{ratio:5.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        f" {plain:11.3f} {naive:6.1f}   ≤ {TARGETS[name]:.0f} {verdict}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=list(TARGETS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"{os.cpu_count()} CPUs, {args.threads} threads, load {os.getloadavg()[0]:.1f}, {args.rounds} rounds"
    )
    print("dtype      params   copy_ s  transport s  ratio (min-max)     plain s  ratio   target")
    for name in args.dtypes:
        print(measure(name, args.layers, args.rounds))


if __name__ == "__main__":
    main()
