"""Time ``gaugeport align`` on two models against the forward passes of both over the text that it reads.

    python experiments/benchmarks/align_command.py A B [--tokens 16384] [--rounds 3] [--threads 2]

A and B are folders with one tokenizer. Every round runs, one after the other and each in a process of its
own, the bare passes (both models loaded, then their blocks run over every row, fitted on and held out) and
the whole command: loading, passes, evidence, assignment, held-out R² by group, loops, gauge file and figure.
Times are without imports. Reported are medians over rounds of the times and of the ratios within a round.
Target: at most 1.3 times as long.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoConfig

import gaugeport as gp
from gaugeport.texts import row_batches
from gaugeport.tool.align import ROWS_PER_BATCH, Request, align_models
from gaugeport.tool.opening import shared_tokenizer
from gaugeport.tool.text import positions_of, token_rows

TARGET_RATIO = 1.3


def bare(a: str, b: str, tokens: int) -> int:
    """Load both models and run their blocks over the rows that the command reads; return the tokens."""
    rows = token_rows(shared_tokenizer(a, b), tokens, positions_of(AutoConfig.from_pretrained(a)))
    batches = [batch for part in rows for batch in row_batches(part, ROWS_PER_BATCH)]
    models = [gp.load_model(name) for name in (a, b)]
    with torch.no_grad():
        for batch in batches:
            for model in models:
                model.base_model(**batch, use_cache=False)
    return sum(batch["input_ids"].numel() for batch in batches)


def child(what: str, a: str, b: str, tokens: str, threads: str) -> None:
    """Run one of the two in this process, and print the seconds that it took."""
    torch.set_num_threads(int(threads))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        if what == "bare":
            said = f"{bare(a, b, int(tokens))} tokens"
        else:
            out = Path(folder, "gauge.safetensors")
            said = align_models(Request(a, b, out, out.with_suffix(".png"), tokens=int(tokens))).text
        print(said, time.perf_counter() - start, sep="\n")


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()

    def seconds(what: str) -> tuple[str, float]:
        command = [
            sys.executable,
            __file__,
            "--child",
            what,
            args.a,
            args.b,
            str(args.tokens),
            str(args.threads),
        ]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        return said[-2], float(said[-1])

    print(f"{os.cpu_count()} CPUs, {args.threads} threads, load {os.getloadavg()[0]:.1f}")
    rows = []
    for _ in range(args.rounds):
        read, passes = seconds("bare")
        rows.append((passes, seconds("align")[1]))
    passes, whole = (statistics.median(column) for column in zip(*rows, strict=True))
    ratios = [b / a for a, b in rows]
    ratio = statistics.median(ratios)
    print(
        f"{read}: bare passes of both {passes:.1f} s, gaugeport align {whole:.1f} s, ratio {ratio:.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f})\n"
        f"target: ≤ {TARGET_RATIO}: {'met' if ratio <= TARGET_RATIO else 'MISSED'}"
    )


if __name__ == "__main__":
    main()
