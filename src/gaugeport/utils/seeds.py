"""Derive random generators from a seed and words for their purpose. Global random state is never used."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *purpose: object) -> int:
    """Return a 31-bit seed for one purpose, e.g. ``derive(seed, "run", "A", "data")``.

    Different purposes give independent seeds. The words are hashed: changing one changes every number drawn
    for it.
    """
    text = "/".join(str(p) for p in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """Return a CPU generator seeded by :func:`derive`."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
