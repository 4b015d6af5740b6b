"""Read and write ``.npy`` files as torch tensors, without pickled objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gaugeport.utils.tensor_files import existing_file, first_line


def read_npy(path: str | Path) -> tuple[Tensor, np.dtype, bool]:
    """Read a ``.npy`` file.

    Args:
        path: The file.

    Returns:
        The array, as a tensor of its own memory; the dtype in the file, with its byte order; and whether the
        file is in column order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds pickled objects, or a dtype that torch does not have.
    """
    path = existing_file(path)
    try:
        # memory-mapped, so that a header that claims too much is compared with the file's length
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        in_columns = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
        return torch.from_numpy(native), array.dtype, in_columns
    except Exception as e:  # a damaged header is parsed as Python until something breaks
        raise ValueError(f"{path} cannot be read as a .npy file of numbers: {first_line(e)}") from e


def write_npy(path: Path, tensor: Tensor, dtype: np.dtype, in_columns: bool) -> None:
    """Write a tensor to a ``.npy`` file of a dtype and an order, as :func:`read_npy` returns them."""
    array = np.array(tensor.detach().numpy(), dtype=dtype, order="F" if in_columns else "C")
    with path.open("wb") as f:  # np.save appends .npy to other names
        np.save(f, array, allow_pickle=False)
