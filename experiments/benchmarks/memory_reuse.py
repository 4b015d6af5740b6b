"""Measure a training step of 135 million parameters with glibc's defaults and with memory kept.

    python experiments/benchmarks/memory_reuse.py [--rounds 3] [--steps 6] [--threads 2]

A step allocates and frees its gradients and logits. By default glibc gives that memory back to the system,
and the next step faults it in again, page by page. ``GLIBC_TUNABLES`` as below keeps it, in huge pages. Each
round trains the same random model of SmolLM2's shape in two new processes, first by default and then with the
setting. Reported are medians over rounds; no target was declared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from gaugeport.pipeline.job import Schedule
from gaugeport.pipeline.training.trainer import train

SETTING = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=20000000000"
SHAPE = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)
TOKENS = 256
WARM_UP = 2


class Steps(TrainerCallback):
    """Note the time and the page faults at the end of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.faults: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter())
        self.faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)


def measure(steps: int, threads: int) -> dict[str, float]:
    """Train for some steps in this process: the medians of a step, and the most memory that was in use."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rows = torch.randint(SHAPE.vocab_size, (steps + WARM_UP, TOKENS))
    schedule = Schedule(
        steps=len(rows),
        batch_size=1,
        lr=1e-4,
        scheduler="constant",
        warmup_steps=0,
        weight_decay=0.01,
        save_every=len(rows) + 1,
    )
    watched = Steps()
    with tempfile.TemporaryDirectory() as folder:
        train(LlamaForCausalLM(SHAPE), rows, Path(folder), schedule, 0, keep=1, callbacks=[watched])
    times, faults = watched.seconds[WARM_UP - 1 :], watched.faults[WARM_UP - 1 :]
    return {
        "seconds": median(b - a for a, b in pairwise(times)),
        "faults": median(b - a for a, b in pairwise(faults)),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def in_new_process(setting: str | None, args: argparse.Namespace) -> dict[str, float]:
    env = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    if setting:
        env["GLIBC_TUNABLES"] = setting
    child = [sys.executable, __file__, "--child", f"--steps={args.steps}", f"--threads={args.threads}"]
    done = subprocess.run(child, env=env, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--setting", default=SETTING, help="GLIBC_TUNABLES to compare with the default")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.steps, args.threads)))
        return
    results = [(in_new_process(None, args), in_new_process(args.setting, args)) for _ in range(args.rounds)]
    print(f"{args.steps} steps, {args.threads} threads, load {os.getloadavg()[0]:.1f}; {args.setting}\n")
    print("| | default | kept | default / kept |\n" + "|---" * 4 + "|")
    for name in ("seconds", "faults", "peak_gib"):
        before, after = (median(r[side][name] for r in results) for side in (0, 1))
        ratios = sorted(r[0][name] / max(r[1][name], 1e-9) for r in results)
        ratio = f"{median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        print(f"| {name} | {before:.4g} | {after:.4g} | {ratio} |")


if __name__ == "__main__":
    main()
