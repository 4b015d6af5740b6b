"""Collect weight evidence from the files of two checkpoints, matrix by matrix, without loading a model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaugeport.alignment.comparable import BLOCKS, check_both_tied, check_same
from gaugeport.models.checkpoint import Checkpoint, open_checkpoint
from gaugeport.models.safetensors_files import StoredTensor
from gaugeport.models.stored_tensors import check_floats, read_rows, read_tensor
from gaugeport.utils.progress import Progress

BLOCK_ELEMENTS = 1 << 23
"""How many entries of a matrix are in float32 at a time: 32 MiB of each model."""

CACHED_ROWS = 256
"""How many rows are squared in float64 at a time: 8 times as fast as all at once, which leaves the cache."""

MIN_NORM = 1e-12
"""The norm that a column is divided by at least, as in ``torch.nn.functional.normalize``."""


def weight_evidence_of_folders(
    folder_a: str | Path,
    folder_b: str | Path,
    token_ids: Tensor | None = None,
    cross: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """Return what :func:`~gaugeport.alignment.evidence.weight_evidence` does, from the files of two models.

    One matrix of each model is read at a time, those of readers and embeddings in blocks of rows. The files
    may be cut into different shards, and stored in different dtypes. Warns about coordinates that are zero in
    every matrix.

    Args:
        folder_a: A Hugging Face folder with safetensors weights: model A.
        folder_b: Model B; its head and neuron axes must correspond to A's, as in two runs from one base.
        token_ids: int64[n], the rows of the embedding and unembedding that count; default all. Rows of tokens
            that neither run was trained on give the answer away.
        cross: Divide each matrix by its norm instead of dividing each column, as Procrustes needs.
        progress: Called as ``progress(done, total, what)`` after each matrix
            (:mod:`gaugeport.utils.progress`).

    Returns:
        float64[d, d], indexed [B, A]. It differs from the evidence of the loaded models by float32 rounding.

    Raises:
        FileNotFoundError: If a folder, its config or weights are missing.
        ValueError: If a folder cannot be opened (:func:`~gaugeport.models.checkpoint.open_checkpoint`); if
            the models cannot be compared, are quantized, or have matrices of other shapes or that are not
            finite; if a token id is not in both vocabularies.
    """
    # 1) check that both models have the same matrices
    a, b = open_checkpoint(folder_a), open_checkpoint(folder_b)
    check_same(*(_facts(side, vocabulary=token_ids is None) for side in (a, b)))
    check_both_tied(a.chart, b.chart)
    stored_a, stored_b = a.parameters, b.parameters
    matrices = [
        (stored_a[name], stored_b[name], axis, token_ids if role in ("embed", "unembed") else None)
        for name, role, axis in a.chart.matrices()
    ]
    for x, y, _, ids in matrices:
        check_floats([x, y])
        if ids is not None:
            _check_ids(ids, min(x.shape[0], y.shape[0]))
        elif x.shape != y.shape:
            raise ValueError(
                f"{x.name} has shape {x.shape} in A and {y.shape} in B: weight evidence compares models of "
                "one base; allowed otherwise: evidence='activations'"
            )

    # 2) sum the cosines over matrices
    width = a.chart.width
    evidence = torch.zeros(width, width, dtype=torch.float64)
    used_a, used_b = torch.zeros(width, dtype=torch.bool), torch.zeros(width, dtype=torch.bool)
    for done, (x, y, axis, ids) in enumerate(matrices, 1):
        products = _products(x, y, axis, ids)
        evidence += products.normalised(cross)
        used_a |= products.squares_a > 0
        used_b |= products.squares_b > 0
        if progress is not None:
            progress(done, len(matrices), "weights")

    # 3) warn about coordinates that no matrix uses
    for side, used in (("A", used_a), ("B", used_b)):
        unused = (~used).nonzero().flatten().tolist()
        if unused:
            warnings.warn(
                f"{len(unused)} coordinate(s) of {side}, the first {unused[:5]}, are 0 in every matrix: "
                "weights cannot place them",
                stacklevel=2,
            )
    return evidence / len(matrices)


@dataclass
class _Products:
    """Inner products between the columns of B's and of A's matrix, and the square norms of both."""

    inner: Tensor
    squares_a: Tensor
    squares_b: Tensor

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add some rows of A's and B's matrix, float32[n, d] each."""
        with torch.autocast("cpu", enabled=False):
            self.inner += y.T @ x
        for squares, matrix in ((self.squares_a, x), (self.squares_b, y)):
            for rows in matrix.split(CACHED_ROWS):
                squares += rows.double().square_().sum(0)

    def normalised(self, cross: bool) -> Tensor:
        """Return the cosines of columns; with ``cross``, inner products over the norms of the matrices."""
        if cross:
            return self.inner / (self.squares_a.sum() * self.squares_b.sum()).sqrt()
        norm_a, norm_b = (s.sqrt().clamp_min(MIN_NORM) for s in (self.squares_a, self.squares_b))
        return self.inner / norm_b[:, None] / norm_a


def _products(x: StoredTensor, y: StoredTensor, axis: int, ids: Tensor | None) -> _Products:
    width = x.shape[axis]
    zeros = torch.zeros(width, dtype=torch.float64)
    products = _Products(torch.zeros(width, width, dtype=torch.float64), zeros, zeros.clone())
    for a, b in zip(_blocks(x, axis, ids), _blocks(y, axis, ids), strict=True):
        products.add(a, b)
    for side, tensor, squares in (("A", x, products.squares_a), ("B", y, products.squares_b)):
        if not bool(torch.isfinite(squares).all()):
            raise ValueError(f"{tensor.name} of {side} is not finite: only finite weights can be matched")
    return products


def _blocks(tensor: StoredTensor, axis: int, ids: Tensor | None) -> Iterator[Tensor]:
    """Yield blocks of a matrix with the stream on its last axis, float32[n, d].

    The blocks of two matrices correspond: their cuts depend on the shape and the ids only.
    """
    step = max(1, BLOCK_ELEMENTS // tensor.shape[axis])
    if ids is not None:
        for chunk in ids.split(step):
            rows, place = torch.unique(chunk, return_inverse=True)
            yield torch.cat([read_rows(tensor, int(k), int(k) + 1) for k in rows])[place].to(torch.float32)
    elif axis == 0:  # its columns are spread over the file, so it is read whole
        for block in read_tensor(tensor).split(step, dim=1):
            yield block.T.to(torch.float32)
    else:
        for k in range(0, tensor.shape[0], step):
            yield read_rows(tensor, k, min(k + step, tensor.shape[0])).to(torch.float32)


def _facts(checkpoint: Checkpoint, vocabulary: bool) -> dict[str, Any]:
    """Return what must be the same in A and in B, as :func:`~gaugeport.alignment.comparable.facts_of`."""
    facts: dict[str, Any] = {
        "architecture": checkpoint.chart.model_type,
        "residual width": checkpoint.chart.width,
        BLOCKS: checkpoint.config.num_hidden_layers,
    }
    if vocabulary:
        embedding = checkpoint.parameters[f"{checkpoint.chart.family.embedding}.weight"]
        facts["vocabulary size"] = embedding.shape[0]
    return facts


def _check_ids(ids: Tensor, vocabulary: int) -> None:
    outside = ids[(ids < 0) | (ids >= vocabulary)]
    if len(outside):
        raise ValueError(f"token ids must lie in 0..{vocabulary - 1}, got {outside[:5].tolist()}")
