"""Read tensors, or some of their rows, from safetensors files into memory of their own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor

from gaugeport.models.safetensors_files import StoredTensor

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes that a gauge acts on, by their names in a header."""


def read_tensor(tensor: StoredTensor) -> Tensor:
    """Read a whole tensor. Raises ``ValueError`` for a dtype that is not in :data:`FLOATS`."""
    return read_rows(tensor, 0, tensor.shape[0] if tensor.shape else 1)


def read_rows(tensor: StoredTensor, start: int, stop: int) -> Tensor:
    """Read rows (entries of the first axis) of a tensor.

    Args:
        tensor: Where it lies. A scalar has one row.
        start, stop: The first row, and the row after the last.

    Returns:
        A tensor of shape [stop - start, ...] and the stored dtype.

    Raises:
        ValueError: If the dtype is not in :data:`FLOATS`, or the file has become shorter.
    """
    check_floats([tensor])
    inner, dtype = tensor.shape[1:], FLOATS[tensor.dtype]
    rows = torch.empty((stop - start) * prod(inner), dtype=dtype)
    if rows.numel():
        offset = tensor.start + start * prod(inner) * dtype.itemsize
        with tensor.file.open("rb", buffering=0) as f:
            fill(f.fileno(), rows.view(torch.uint8).numpy().data, offset, tensor)
    return rows.view(stop - start, *inner) if tensor.shape else rows.view(())


def fill(file: int, into: memoryview, offset: int, tensor: StoredTensor) -> None:
    """Fill bytes from an open file. Raise ``ValueError`` if the file ends before."""
    done = 0
    while done < len(into):
        n = os.preadv(file, [into[done:]], offset + done)
        if n == 0:
            raise ValueError(f"{tensor.file} has become shorter: {tensor.name} is not whole")
        done += n


def check_floats(tensors: Iterable[StoredTensor]) -> None:
    """Raise ``ValueError`` for tensors of a dtype outside :data:`FLOATS`: they hold codes, not weights."""
    quantized = [f"{t.name} ({t.dtype})" for t in tensors if t.dtype not in FLOATS]
    if quantized:
        raise ValueError(
            f"{len(quantized)} parameters are quantized, the first {quantized[:3]}: a gauge acts on the "
            f"weights themselves; dequantize, or store them as one of {', '.join(FLOATS)}"
        )
