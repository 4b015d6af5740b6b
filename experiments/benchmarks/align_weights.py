"""Time the weight alignment of two checkpoints on disk: a planted signed permutation and noise.

    python experiments/benchmarks/align_weights.py [--layers 22] [--noise 0.1] [--threads 2] [--folder DIR]

Both checkpoints have the shape of TinyLlama (d = 2048; 22 layers are 1.1 billion parameters) in bfloat16. B
is A with noise of ``--noise`` of each matrix's standard deviation, in other coordinates. Timed are
``weight_evidence_of_folders`` and the exact assignment, and beside them, in the same run, the bare float32
matrix products that the evidence consists of. Target with two threads: 3 minutes, 6 GiB of memory, and every
coordinate with its sign right.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transport_checkpoint import WIDTH, gib_of, peak_memory, write_checkpoint

from gaugeport.alignment.folder_evidence import weight_evidence_of_folders
from gaugeport.alignment.matchers import match
from gaugeport.groups import SignedPermutation
from gaugeport.groups import load as load_gauge
from gaugeport.models.checkpoint import open_checkpoint
from gaugeport.transport import transport_checkpoint

TARGET_SECONDS, TARGET_GIB = 180.0, 6.0


def add_noise(folder: Path, noise: float) -> None:
    """Add noise to every matrix of a checkpoint, in place."""
    rng = torch.Generator().manual_seed(1)
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        for name, t in tensors.items():
            if t.dim() == 2:
                wide = t.float()
                tensors[name] = (wide + noise * wide.std() * torch.randn(t.shape, generator=rng)).bfloat16()
        save_file(tensors, path, metadata={"format": "pt"})


def bare_products(folder: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of the matrix products alone, on memory that is warm."""
    matrices = [t for t in open_checkpoint(folder).parameters.values() if len(t.shape) == 2]
    x, y = (torch.randn(4096, WIDTH) for _ in range(2))
    start, cpu = time.perf_counter(), time.process_time()
    for rows in (t.nbytes // 2 // WIDTH for t in matrices):
        for k in range(0, rows, 4096):
            n = min(4096, rows - k)
            y[:n].T @ x[:n]
    return time.perf_counter() - start, time.process_time() - cpu


def child(a: str, b: str, gauge: str, threads: str) -> None:
    """Align in a process of its own, and print what it took."""
    torch.set_num_threads(int(threads))
    g = load_gauge(gauge)
    assert isinstance(g, SignedPermutation)
    start, cpu = time.perf_counter(), time.process_time()
    evidence = weight_evidence_of_folders(a, b)
    read, cpu = time.perf_counter() - start, time.process_time() - cpu
    found = match(evidence, "signed_permutation", "hungarian_abs").gauge
    seconds = time.perf_counter() - start
    assert isinstance(found, SignedPermutation)
    right = int(((found.perm == g.perm) & (found.sign == g.sign)).sum())
    peak = peak_memory()
    bare, bare_cpu = bare_products(Path(a))
    met = "met" if seconds <= TARGET_SECONDS and peak < TARGET_GIB and right == WIDTH else "MISSED"
    print(
        f"evidence {read:.1f} s, assignment {seconds - read:.1f} s, together {seconds:.1f} s\n"
        f"bare matrix products {bare:.1f} s: the evidence takes {read / bare:.2f} times as long "
        f"({cpu / bare_cpu:.2f} times the CPU seconds)\n"
        f"peak memory {peak:.2f} GiB, {right} of {WIDTH} coordinates right\n"
        f"target: {TARGET_SECONDS:.0f} s, {TARGET_GIB:.0f} GiB, all right: {met}"
    )


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written")
    args = parser.parse_args()
    g = SignedPermutation.random(WIDTH, torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        a, noisy, b = (Path(name) / part for part in ("a", "noisy", "b"))
        for folder in (a, noisy):
            folder.mkdir()
            size = write_checkpoint(folder, gib_of(args.layers), shards=8)
        add_noise(noisy, args.noise)
        transport_checkpoint(noisy, g, b)
        print(
            f"{size / 2e9:.2f} G parameters, noise {args.noise}, {args.threads} threads, "
            f"load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        gauge = g.save(Path(name) / "g.safetensors")
        command = [sys.executable, __file__, "--child", str(a), str(b), str(gauge), str(args.threads)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
