"""Seeds, batches of tokens and noisy copies of tiny models."""

import copy

import torch


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def batches_of(n=6, rows=8, length=16, seed=0):
    """Return batches of random tokens of a vocabulary of 64, each of its own seed."""
    return [{"input_ids": torch.randint(0, 64, (rows, length), generator=gen(seed + s))} for s in range(n)]


def noisy(model, scale, seed=3):
    """Return a copy with noise of ``scale`` standard deviations added to every parameter."""
    moved, generator = copy.deepcopy(model), gen(seed)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(torch.randn(p.shape, generator=generator).to(p.dtype) * scale * p.std())
    return moved
