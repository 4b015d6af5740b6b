"""Measure a training step of paper B's Dyck-3 model against its bare matrix products, on one thread.

    python experiments/benchmarks/dyck_step.py [--batch-sizes 256 512] [--steps 30] [--cpu-time]

A step is all that the Trainer does from one step's end to the next's: strings, loss, gradient, clipping,
AdamW. After each, the products that its gradient needs are run alone, on random operands of the same shapes
(those of attention too), once to warm up and once timed. A step's GFLOP/s count its tokens without padding,
and each string's attention as a full square; those of the bare products count all they do. Reported are
medians; target: half of the bare rate. The second row of a batch size takes the loss by autograd, in four
groups of similar length.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from gaugeport.models.dyck import CLASSES, DyckConfig, DyckModel
from gaugeport.models.dyck_gradient import groups
from gaugeport.pipeline.job import Schedule
from gaugeport.pipeline.rotation.toy.training_strings import TrainingStrings
from gaugeport.pipeline.training.trainer import train

LONGEST, LENGTH = 62, 64
CONFIG = DyckConfig(initializer_range=None)
D, HEADS, MLP, LAYERS = 64, 4, 256, 2
MAPS = [(D, 3 * D), (D, D), (D, MLP), (MLP, D)] * LAYERS + [(D, sum(CLASSES))]
"""Inputs and outputs of every product of a forward pass with a weight."""


def flops(tokens: int, squares: int) -> int:
    """Count a forward and a backward pass; ``squares`` is the sum of the squared lengths of all strings."""
    return 6 * tokens * sum(i * o for i, o in MAPS) + 12 * LAYERS * squares * D


def bare_products(rows: int, length: int) -> Callable[[], None]:
    """Return what runs all products of a group, on operands of its own."""
    tokens, width = rows * length, D // HEADS
    maps = [(torch.randn(tokens, i), torch.randn(o, i), torch.randn(tokens, o)) for i, o in MAPS]
    tall, square = torch.randn(rows * HEADS, length, width), torch.randn(rows * HEADS, length, length)

    def run() -> None:
        for x, w, dy in maps:
            x @ w.T, dy @ w, dy.T @ x
        for _ in range(2 * LAYERS):
            tall @ tall.transpose(1, 2), square @ tall, square.transpose(1, 2) @ tall

    return run


class Timed(TrainerCallback):
    """Time every step, and after it the bare products of its batch.

    Args:
        lengths: Tokens of every string, int64[batch], by step.
        clock: Returns seconds.
    """

    def __init__(self, lengths: list[Tensor], clock: Callable[[], float]):
        self.lengths, self.clock = lengths, clock
        self.seconds: list[float] = []
        self.rates: list[tuple[float, float]] = []
        self.since = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.since = self.clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = self.clock() - self.since
        lengths = self.lengths[state.global_step - 1]
        shapes = [(len(rows), longest) for rows, longest in groups(lengths)]
        products = [bare_products(*shape) for shape in shapes]
        bare = 0.0
        for run in products:
            run()
            start = self.clock()
            run()
            bare += self.clock() - start
        done = flops(int(lengths.sum()), int(lengths.square().sum()))
        with_padding = flops(sum(n * t for n, t in shapes), sum(n * t * t for n, t in shapes))
        self.seconds.append(step)
        self.rates.append((done / step / 1e9, with_padding / bare / 1e9))
        self.since = self.clock()


def measure(batch_size: int, steps: int, clock: Callable[[], float]) -> Timed:
    """Train a new model for some steps, of which the first three warm up."""
    torch.manual_seed(0)
    model, data = DyckModel(CONFIG), TrainingStrings(steps, batch_size, LONGEST, LENGTH, seed=0)
    by_step = [range(k * batch_size, (k + 1) * batch_size) for k in range(steps)]
    masks = [torch.stack([row["attention_mask"] for row in data.__getitems__(list(i))]) for i in by_step]
    timed = Timed([mask.sum(1) for mask in masks], clock)
    schedule = Schedule(
        steps=steps,
        batch_size=batch_size,
        lr=1e-3,
        scheduler="cosine_with_min_lr",
        warmup_steps=steps,
        weight_decay=0.01,
        save_every=steps,
    )
    with tempfile.TemporaryDirectory() as folder:
        train(model, data, Path(folder), schedule, 0, keep=None, callbacks=[timed])
    return timed


def row(batch_size: int, name: str, timed: Timed) -> str:
    seconds, rates = median(timed.seconds[3:]), timed.rates[3:]
    step, bare = (median(column) for column in zip(*rates, strict=True))
    share = median(a / b for a, b in rates)
    target = f"≥ 50 % {'met' if share >= 0.5 else 'MISSED'}"
    return f"| {batch_size} | {name} | {seconds:.3f} | {step:.1f} | {bare:.1f} | {share:.0%} | {target} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cpu-time", action="store_true", help="for a busy machine")
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    torch.set_num_threads(1)
    print(f"{args.steps} steps, one thread, {clock.__name__}, load {os.getloadavg()[0]:.1f}\n")
    print("| batch | gradient | s a step | GFLOP/s | bare GFLOP/s | share | target |\n" + "|---" * 7 + "|")
    for size in args.batch_sizes:
        print(row(size, "by hand", measure(size, args.steps, clock)), flush=True)
        by_hand, DyckModel._loss_by_hand = DyckModel._loss_by_hand, DyckModel._loss_by_length
        print(row(size, "autograd", measure(size, args.steps, clock)), flush=True)
        DyckModel._loss_by_hand = by_hand


if __name__ == "__main__":
    main()
