"""Lens 4, polyhedral decomposition: describe the linear regions of a ReLU MLP (paper B, section 3.4).

Without biases, an MLP is linear on every cone in which the same neurons are on: there it is the d×d matrix
``W_out · diag(on) · W_in``. Cells are told apart exactly, by their packed patterns of neurons that are on.
Only cells that the data visits are counted.
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
DESCRIBED_CELLS = 8
"""How many of the most visited cells have their maps described one by one."""

LARGEST_CELLS = (1, 10, 100, 1000)
"""Numbers of cells whose joint share of the tokens is reported."""


@dataclass(frozen=True)
class Cells:
    """Hold the distinct patterns among tokens, most visited first, ties in the order of the patterns."""

    patterns: np.ndarray
    """uint8[cells, ceil(neurons / 8)], packed."""
    counts: np.ndarray
    """int64[cells]: tokens in each cell."""
    of_token: np.ndarray
    """int64[tokens]: the cell of each token."""


def pack(pre: Tensor) -> np.ndarray:
    """Pack where ``pre`` float[tokens, neurons] is positive into bits: uint8[tokens, ceil(neurons / 8)]."""
    return np.packbits((pre > 0).cpu().numpy(), axis=1)


def activation_patterns(model: DyckModel, rows: Mapping[str, Tensor], layer: int) -> np.ndarray:
    """Return the patterns of a layer's neurons at every token that is not padding, BOS and EOS included.

    Args:
        model: A Dyck-3 model.
        rows: Labelled strings.
        layer: Number of the layer.

    Returns:
        uint8[tokens, ceil(neurons / 8)] (:func:`pack`).
    """
    return np.concatenate([pack(pre) for pre in activation_batches(model, rows, f"mlp_pre_{layer}")])


def cells(patterns: np.ndarray) -> Cells:
    """Count the distinct patterns exactly.

    Args:
        patterns: uint8[tokens, bytes].

    Returns:
        The cells and which token is in which.

    Raises:
        ValueError: If there is no token, or the patterns are not two-dimensional.
    """
    if patterns.ndim != 2 or not patterns.size:
        raise ValueError(
            f"patterns have shape {patterns.shape}; expected packed bits [tokens, bytes], one token or more"
        )
    as_records = np.ascontiguousarray(patterns).view([("row", np.void, patterns.shape[1])])["row"][:, 0]
    unique, inverse, counts = np.unique(as_records, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    ordered = np.frombuffer(unique[order].tobytes(), dtype=np.uint8).reshape(len(order), -1)
    return Cells(ordered, counts[order], rank[inverse])


def growth(visited: Cells, order: torch.Generator) -> dict[int, int]:
    """Count how many cells the first tokens of a shuffled order visit.

    Args:
        visited: The cells of all tokens.
        order: Shuffles the tokens.

    Returns:
        Number of tokens (1, 2, 4, … and all) -> distinct cells among them.
    """
    n = len(visited.of_token)
    shuffled = visited.of_token[torch.randperm(n, generator=order).numpy()]
    first_visits = np.sort(np.unique(shuffled, return_index=True)[1])
    sizes = [2**k for k in range(n.bit_length()) if 2**k < n]
    return {m: int(np.searchsorted(first_visits, m)) for m in [*sizes, n]}


def cells_of_arrangement(n: int, d: int) -> int:
    """Count the cells that ``n`` generic hyperplanes through the origin make in R^d: ``2 Σ_{k<d} C(n-1, k)``.

    That is the most a layer of ``n`` neurons without biases can have (Cover 1965).

    Raises:
        ValueError: If a number is less than 1.
    """
    if n < 1 or d < 1:
        raise ValueError(f"{n} hyperplanes in {d} dimensions; allowed: 1 or more of each")
    return 2 * sum(math.comb(n - 1, k) for k in range(d))


@torch.no_grad()
def cell_map(model: DyckModel, layer: int, pattern: np.ndarray) -> Tensor:
    """Compute the linear map of a cell, from the normed stream to what the MLP writes.

    Args:
        model: A Dyck-3 model.
        layer: Number of the layer.
        pattern: The cell, uint8[ceil(neurons / 8)].

    Returns:
        float64[d, d].
    """
    mlp = model.model.layers[layer].mlp
    w_in, w_out = mlp.up_proj.weight.double().cpu(), mlp.down_proj.weight.double().cpu()
    on = torch.from_numpy(np.unpackbits(pattern, count=len(w_in)).astype(np.float64))
    return (w_out * on) @ w_in


def count_maps(model: DyckModel, layer: int, visited: Cells, kept: Tensor | None = None) -> int:
    """Count the different matrices that the cells have.

    A map is the sum of its neurons' matrices ``w_out w_inᵀ``. Two maps are equal if their patterns agree on
    the neurons whose matrix is not zero; and only then, if those matrices are linearly independent
    (:func:`maps_independent`). If they are not, the count is an upper bound.

    Args:
        model: A Dyck-3 model.
        layer: Number of the layer.
        visited: The cells.
        kept: The only neurons that count, bool[neurons]; all if None.

    Returns:
        The number of maps.
    """
    counted = neuron_norms(model, layer).cpu() > 0
    if kept is not None:
        counted &= kept.cpu()
    return len(cells(visited.patterns & np.packbits(counted.numpy())).counts)


@torch.no_grad()
def maps_independent(model: DyckModel, layer: int) -> bool:
    """Return whether the non-zero matrices ``w_out w_inᵀ`` of a layer's neurons are linearly independent."""
    mlp, counted = model.model.layers[layer].mlp, neuron_norms(model, layer) > 0
    if not bool(counted.any()):
        return True
    w_in, w_out = (w.double()[counted] for w in (mlp.up_proj.weight, mlp.down_proj.weight.T))
    unit_in, unit_out = (w / w.norm(dim=1, keepdim=True) for w in (w_in, w_out))
    gram = (unit_in @ unit_in.T) * (unit_out @ unit_out.T)
    return int(torch.linalg.matrix_rank(gram, hermitian=True)) == int(counted.sum())


def region_rows(model: DyckModel, rows: Mapping[str, Tensor], seed: int) -> list[Row]:
    """Measure the regions of every MLP.

    Args:
        model: A Dyck-3 model.
        rows: Labelled strings; the paper has 220,738 tokens.
        seed: Shuffles the tokens of the growth curve.

    Returns:
        Counts of cells, tokens, tokens per cell, cells seen once, distinct maps; shares of the largest cells;
        neurons that are alive by their norm, that some token turns on, and that switch. The growth curve,
        ``cells_seen`` with the column ``tokens``. And of each of the most visited cells (column ``cell``),
        its tokens and its map's norms and ranks.
    """
    result = []
    for layer in range(model.config.num_hidden_layers):
        mlp, visited = f"L{layer}M", cells(activation_patterns(model, rows, layer))
        result += [row(LENS, mlp, metric, v) for metric, v in _counts(model, layer, visited).items()]
        for tokens, count in growth(visited, generator(seed, "regions", layer)).items():
            result.append(row(LENS, mlp, "cells_seen", count, tokens=str(tokens)))
        for k in range(min(DESCRIBED_CELLS, len(visited.counts))):
            described = {"tokens": visited.counts[k], **_map_values(model, layer, visited.patterns[k])}
            for metric, value in described.items():
                result.append(row(LENS, mlp, f"cell_{metric}", float(value), cell=str(k)))
    return result


def _counts(model: DyckModel, layer: int, visited: Cells) -> dict[str, float]:
    """Count cells, maps and neurons of a layer."""
    tokens, neurons = len(visited.of_token), model.config.intermediate_size
    on = np.unpackbits(visited.patterns, axis=1, count=neurons).astype(bool)
    alive_neurons = alive(neuron_norms(model, layer))
    counts: dict[str, float] = {
        "tokens": tokens,
        "cells": len(visited.counts),
        "cells_seen_once": int((visited.counts == 1).sum()),
        "cells_of_arrangement_log10": math.log10(cells_of_arrangement(neurons, model.config.hidden_size)),
        "tokens_per_cell_mean": tokens / len(visited.counts),
        "tokens_per_cell_median": float(np.median(visited.counts)),
        "distinct_maps": count_maps(model, layer, visited),
        "maps_independent": maps_independent(model, layer),
        "distinct_maps_alive": count_maps(model, layer, visited, alive_neurons),
        "neurons_alive": int(alive_neurons.sum()),
        "neurons_ever_on": int(on.any(0).sum()),
        "neurons_switching": int((on.any(0) & ~on.all(0)).sum()),
    }
    for k in LARGEST_CELLS:
        counts[f"share_of_{k}_largest"] = float(visited.counts[:k].sum()) / tokens
    return counts


def _map_values(model: DyckModel, layer: int, pattern: np.ndarray) -> dict[str, float]:
    """Measure norms and ranks of a cell's map."""
    singular = torch.linalg.svdvals(cell_map(model, layer, pattern))
    largest = float(singular.max())
    rounding = largest * len(singular) * torch.finfo(singular.dtype).eps
    return {
        "frobenius": float(singular.norm()),
        "spectral": largest,
        "rank": int((singular > rounding).sum()) if largest > 0 else 0,
        "effective_rank": effective_rank(singular),
    }
