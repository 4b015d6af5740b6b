"""Lens 4, polyhedral decomposition: the linear regions of a ReLU MLP that data visits (paper B, section 3.4).

Without biases, an MLP is linear on every cone in which the same neurons are on: there it is the d×d matrix
``W_out · diag(on) · W_in``. Cells are told apart exactly, by the packed pattern of signs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.rotation.lenses.measurement import Row, row
from gaugeport.pipeline.rotation.lenses.weights import alive, effective_rank, neuron_norms
from gaugeport.pipeline.rotation.toy.sites import activation_batches
from gaugeport.utils.seeds import generator

LENS = "regions"
DESCRIBED = 8
"""The most visited cells whose maps are described one by one."""

LARGEST = (1, 10, 100, 1000)
"""Numbers of cells whose share of the tokens is reported."""


@dataclass(frozen=True)
class Cells:
    """The distinct patterns among tokens, most visited first (ties by pattern)."""

    patterns: np.ndarray
    """uint8[cells, ceil(neurons / 8)], packed."""
    counts: np.ndarray
    """int64[cells]: tokens in each."""
    of_token: np.ndarray
    """int64[tokens]: the cell of each."""


def pack(pre: Tensor) -> np.ndarray:
    """Which neurons are on, ``pre`` [tokens, neurons] > 0, as bits: uint8[tokens, ceil(neurons / 8)]."""
    return np.packbits((pre > 0).cpu().numpy(), axis=1)


def activation_patterns(model: DyckModel, rows: Mapping[str, Tensor], layer: int) -> np.ndarray:
    """:func:`pack`-ed patterns of a layer's neurons at every token of ``rows`` but padding, BOS and EOS included."""
    return np.concatenate([pack(pre) for pre in activation_batches(model, rows, f"mlp_pre_{layer}")])


def cells(patterns: np.ndarray) -> Cells:
    """The distinct rows of packed ``patterns`` uint8[tokens, bytes], counted exactly. Raises ``ValueError`` for none."""
    if patterns.ndim != 2 or not patterns.size:
        raise ValueError(
            f"patterns of shape {patterns.shape}; wanted: packed bits [tokens, bytes], at least one token"
        )
    whole = np.ascontiguousarray(patterns).view([("row", np.void, patterns.shape[1])])["row"][:, 0]
    unique, inverse, counts = np.unique(whole, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    found = np.frombuffer(unique[order].tobytes(), dtype=np.uint8).reshape(len(order), -1)
    return Cells(found, counts[order], place[inverse])


def growth(found: Cells, order: torch.Generator) -> dict[int, int]:
    """Tokens seen -> distinct cells among them, at 1, 2, 4, … tokens and all, in one shuffled order."""
    shuffled = found.of_token[torch.randperm(len(found.of_token), generator=order).numpy()]
    first = np.sort(np.unique(shuffled, return_index=True)[1])
    n = len(shuffled)
    sizes = [2**k for k in range(n.bit_length()) if 2**k < n]
    return {m: int(np.searchsorted(first, m)) for m in [*sizes, n]}


def cells_of_arrangement(n: int, d: int) -> int:
    """The number of cells that ``n`` generic hyperplanes through the origin cut R^d into: ``2 Σ_{k<d} C(n-1, k)``.

    What a bias-free layer of ``n`` neurons could have at most (Cover 1965). Raises ``ValueError`` for sizes under 1.
    """
    if n < 1 or d < 1:
        raise ValueError(f"{n} hyperplanes in {d} dimensions; allowed: 1 or more of each")
    return 2 * sum(math.comb(n - 1, k) for k in range(d))


@torch.no_grad()
def cell_map(model: DyckModel, layer: int, pattern: np.ndarray) -> Tensor:
    """The linear map of a cell from the normed stream to what the MLP writes: float64[d, d]; ``pattern`` packed."""
    mlp = model.model.layers[layer].mlp
    w_in, w_out = mlp.up_proj.weight.double().cpu(), mlp.down_proj.weight.double().cpu()
    on = torch.from_numpy(np.unpackbits(pattern, count=len(w_in)).astype(np.float64))
    return (w_out * on) @ w_in


def distinct_maps(model: DyckModel, layer: int, found: Cells, kept: Tensor | None = None) -> int:
    """How many different matrices the cells have; with ``kept`` bool[neurons], were those neurons the only ones.

    A map is the sum of its neurons' matrices ``w_out w_inᵀ``: two maps are equal where their patterns agree on the neurons
    whose matrix is not zero, and only there if those matrices are :func:`independent`. Else this is an upper bound.
    """
    counted = neuron_norms(model, layer).cpu() > 0
    if kept is not None:
        counted &= kept.cpu()
    return len(cells(found.patterns & np.packbits(counted.numpy())).counts)


@torch.no_grad()
def independent(model: DyckModel, layer: int) -> bool:
    """Whether the matrices ``w_out w_inᵀ`` of a layer's neurons, those of zero apart, are linearly independent."""
    mlp, counted = model.model.layers[layer].mlp, neuron_norms(model, layer) > 0
    if not bool(counted.any()):
        return True
    w_in, w_out = (w.double()[counted] for w in (mlp.up_proj.weight, mlp.down_proj.weight.T))
    unit_in, unit_out = (w / w.norm(dim=1, keepdim=True) for w in (w_in, w_out))
    gram = (unit_in @ unit_in.T) * (unit_out @ unit_out.T)
    return int(torch.linalg.matrix_rank(gram, hermitian=True)) == int(counted.sum())


def region_rows(model: DyckModel, rows: Mapping[str, Tensor], seed: int) -> list[Row]:
    """What lens 4 says of every MLP, on a large sample of ``rows``; ``seed`` shuffles the tokens of the growth curve.

    Counts (cells, tokens, tokens per cell, cells seen once, the largest cells' shares, distinct maps, neurons that are
    alive by their norm, that some token turns on, that switch); the curve (``cells_seen`` with the text column ``tokens``);
    and of each of the most visited cells (text column ``cell``) its tokens and its map's norm, rank and effective rank.
    """
    found = []
    for layer in range(model.config.num_hidden_layers):
        visited = cells(activation_patterns(model, rows, layer))
        tokens, neurons = len(visited.of_token), model.config.intermediate_size
        on = np.unpackbits(visited.patterns, axis=1, count=neurons).astype(bool)
        values: dict[str, float] = {
            "tokens": tokens,
            "cells": len(visited.counts),
            "cells_seen_once": int((visited.counts == 1).sum()),
            "cells_of_arrangement_log10": math.log10(cells_of_arrangement(neurons, model.config.hidden_size)),
            "tokens_per_cell_mean": tokens / len(visited.counts),
            "tokens_per_cell_median": float(np.median(visited.counts)),
            "distinct_maps": distinct_maps(model, layer, visited),
            "maps_independent": independent(model, layer),
            "distinct_maps_alive": distinct_maps(model, layer, visited, alive(neuron_norms(model, layer))),
            "neurons_alive": int(alive(neuron_norms(model, layer)).sum()),
            "neurons_ever_on": int(on.any(0).sum()),
            "neurons_switching": int((on.any(0) & ~on.all(0)).sum()),
        }
        values |= {f"share_of_{k}_largest": float(visited.counts[:k].sum()) / tokens for k in LARGEST}
        mlp = f"L{layer}M"
        found += [row(LENS, mlp, metric, value) for metric, value in values.items()]
        curve = growth(visited, generator(seed, "regions", layer))
        found += [row(LENS, mlp, "cells_seen", n, tokens=str(m)) for m, n in curve.items()]
        for k in range(min(DESCRIBED, len(visited.counts))):
            s = torch.linalg.svdvals(cell_map(model, layer, visited.patterns[k]))
            rank = int((s > s.max() * len(s) * torch.finfo(s.dtype).eps).sum()) if s.max() > 0 else 0
            described = {
                "tokens": visited.counts[k],
                "frobenius": s.norm(),
                "spectral": s.max(),
                "rank": rank,
            }
            described["effective_rank"] = effective_rank(s)
            found += [
                row(LENS, mlp, f"cell_{metric}", float(value), cell=str(k))
                for metric, value in described.items()
            ]
    return found
