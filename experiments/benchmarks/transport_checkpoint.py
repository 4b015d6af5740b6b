"""Time the transport of a sharded bfloat16 checkpoint from file to file against ``cp -r`` of the same folder.

    python experiments/benchmarks/transport_checkpoint.py [--gib 4] [--rounds 5] [--workers 2] [--folder DIR]

The checkpoint has the shape of TinyLlama (d = 2048), with as many blocks as the size asks for. Every round
times, one after the other, ``cp -r`` and ``transport_checkpoint`` in a process of its own, whose largest
resident memory is reported; the time is that of the call, without imports. The source is in the page cache,
and ``sync`` runs before each. Reported are medians over rounds of the times and of the ratios within a
round. Target: at most 1.5 times as long as ``cp``, and less than 1 GiB of memory.

Where other processes share the cores, wall time says little: the second line compares CPU seconds, those of
``cp`` and of the transport divided by its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from gaugeport.groups import SignedPermutation
from gaugeport.groups import load as load_gauge
from gaugeport.transport import transport_checkpoint

WIDTH, NEURONS, VOCABULARY, KEYS = 2048, 5632, 32000, 256
TARGET_RATIO, TARGET_GIB = 1.5, 1.0
GIB = 2**30


def block_shapes(k: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of one block."""
    base = f"model.layers.{k}"
    return {
        f"{base}.self_attn.q_proj.weight": (WIDTH, WIDTH),
        f"{base}.self_attn.k_proj.weight": (KEYS, WIDTH),
        f"{base}.self_attn.v_proj.weight": (KEYS, WIDTH),
        f"{base}.self_attn.o_proj.weight": (WIDTH, WIDTH),
        f"{base}.mlp.gate_proj.weight": (NEURONS, WIDTH),
        f"{base}.mlp.up_proj.weight": (NEURONS, WIDTH),
        f"{base}.mlp.down_proj.weight": (WIDTH, NEURONS),
        f"{base}.input_layernorm.weight": (WIDTH,),
        f"{base}.post_attention_layernorm.weight": (WIDTH,),
    }


def gib_of(blocks: int) -> float:
    """Return the size of a checkpoint in bfloat16."""
    per_block = 2 * sum(torch.Size(s).numel() for s in block_shapes(0).values())
    return (blocks * per_block + 2 * 2 * VOCABULARY * WIDTH) / GIB


def write_checkpoint(folder: Path, gib: float, shards: int) -> int:
    """Write a random checkpoint of about a size; return its bytes."""
    ends = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "lm_head.weight": (VOCABULARY, WIDTH)}
    blocks = max(1, round((gib - gib_of(0)) / (gib_of(1) - gib_of(0))))
    shapes = {**ends, "model.norm.weight": (WIDTH,)}
    for k in range(blocks):
        shapes |= block_shapes(k)
    rng, names = torch.Generator().manual_seed(0), list(shapes)
    per_shard = -(-len(names) // shards)
    weight_map, total = {}, 0
    for k in range(0, len(names), per_shard):
        file = f"model-{k // per_shard + 1:05}-of-{-(-len(names) // per_shard):05}.safetensors"
        tensors = {n: torch.randn(shapes[n], generator=rng).bfloat16() for n in names[k : k + per_shard]}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += (folder / file).stat().st_size
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=NEURONS, num_hidden_layers=blocks,
        num_attention_heads=32, num_key_value_heads=4, tie_word_embeddings=False, dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    return total


def copied(source: Path, out: Path) -> tuple[float, float]:
    """Copy with ``cp -r``; return wall and CPU seconds."""
    os.sync()
    before, start = os.times(), time.perf_counter()
    subprocess.run(["cp", "-r", str(source), str(out)], check=True)
    wall, after = time.perf_counter() - start, os.times()
    shutil.rmtree(out)
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def moved(source: Path, out: Path, gauge: Path, workers: int) -> tuple[float, float, float]:
    """Move in a process of its own; return wall and CPU seconds of the call, and the peak memory in GiB."""
    os.sync()
    command = [sys.executable, __file__, "--child", str(source), str(out), str(gauge), str(workers)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    shutil.rmtree(out)
    wall, cpu, peak = map(float, said.split()[-3:])
    return wall, cpu, peak


def peak_memory() -> float:
    """Return the largest resident memory of this process in GiB. (``ru_maxrss`` counts its parent's too.)"""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / GIB


def child(source: str, out: str, gauge: str, workers: str) -> None:
    g, start, cpu = load_gauge(gauge), time.perf_counter(), time.process_time()
    transport_checkpoint(source, g, out, workers=int(workers))
    print(time.perf_counter() - start, time.process_time() - cpu, peak_memory())


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        (folder / "source").mkdir()
        size = write_checkpoint(folder / "source", args.gib, args.shards)
        g = SignedPermutation.random(WIDTH, torch.Generator().manual_seed(0))
        gauge = g.save(folder / "g.safetensors")
        print(
            f"{size / GIB:.2f} GiB in {args.shards} shards, {os.cpu_count()} CPUs, {args.workers} workers, "
            f"{args.rounds} rounds, load {os.getloadavg()[0]:.1f}"
        )
        copied(folder / "source", folder / "copy")  # warms the page cache
        rows = []
        for _ in range(args.rounds):
            of_cp = copied(folder / "source", folder / "copy")
            rows.append((*of_cp, *moved(folder / "source", folder / "moved", gauge, args.workers)))
    cp, cp_cpu, wall, cpu, peaks = zip(*rows, strict=True)
    ratios = [b / a for a, b in zip(cp, wall, strict=True)]
    cpu_ratios = [b / args.workers / a for a, b in zip(cp_cpu, cpu, strict=True)]
    ratio, peak = statistics.median(ratios), max(peaks)
    met = "met" if ratio <= TARGET_RATIO and peak < TARGET_GIB else "MISSED"
    print(
        f"wall  cp {statistics.median(cp):.2f} s, moved {statistics.median(wall):.2f} s, ratio {ratio:.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f})\n"
        f"CPU   cp {statistics.median(cp_cpu):.2f} s, moved {statistics.median(cpu):.2f} s, ratio per worker "
        f"{statistics.median(cpu_ratios):.2f}\n"
        f"peak memory {peak:.2f} GiB\n"
        f"target: wall ratio ≤ {TARGET_RATIO}, memory < {TARGET_GIB:.0f} GiB: {met}"
    )


if __name__ == "__main__":
    main()
