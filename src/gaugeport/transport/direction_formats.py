"""Read files of directions as tensors by name, and write them again with other tensors of the same kind.

Four formats: ``.safetensors``; ``.npy``; ``.pt`` and ``.pth`` (a tensor, or dicts and lists of tensors, as
``torch.save`` writes ``vector.layer_activations`` of the steering-vectors library); ``.gguf`` (a control
vector of repeng or llama.cpp). Nothing is ever unpickled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gaugeport.transport.control_vectors import read_gguf_directions, write_gguf_directions
from gaugeport.utils.numpy_files import read_npy, write_npy
from gaugeport.utils.tensor_files import read_safetensors, read_torch

ALONE = "the tensor"
"""The name of a tensor that is a file's only one."""

Write = Callable[[Mapping[str, Tensor], Path], None]


@dataclass(frozen=True, eq=False)
class DirectionFile:
    """The content of a file of directions.

    Attributes:
        tensors: The tensors by name. The name of a nested one is its path, with dots.
        write: Write a file of the same format with other tensors of these names.
        layer_type: What the file says of where its directions sit ("decoder_block", "input_layernorm"), if
            it says it as the steering-vectors library does.
    """

    tensors: Mapping[str, Tensor]
    write: Write
    layer_type: str | None = None


def read_directions(path: Path) -> DirectionFile:
    """Read a file of directions.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its format is unknown, or the file is damaged or holds Python objects.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: no reader for files named *{path.suffix}; allowed: {', '.join(READERS)}")
    return reader(path)


def _safetensors(path: Path) -> DirectionFile:
    tensors, metadata = read_safetensors(path)

    def write(moved: Mapping[str, Tensor], out: Path) -> None:
        save_file({name: t.contiguous() for name, t in moved.items()}, out, metadata=metadata or None)

    return DirectionFile(tensors, write)


def _npy(path: Path) -> DirectionFile:
    tensor, dtype, in_columns = read_npy(path)
    return DirectionFile({ALONE: tensor}, lambda moved, out: write_npy(out, moved[ALONE], dtype, in_columns))


def _torch(path: Path) -> DirectionFile:
    content = read_torch(path)
    tensors: dict[str, Tensor] = {}
    try:
        _collect(content, (), tensors)
    except RecursionError as e:
        raise ValueError(f"{path}: its dicts and lists are nested too deep, or hold themselves") from e
    layer_type = content.get("layer_type") if isinstance(content, Mapping) else None
    return DirectionFile(
        tensors,
        lambda moved, out: torch.save(_replaced(content, (), moved), out),
        layer_type if isinstance(layer_type, str) else None,
    )


def _gguf(path: Path) -> DirectionFile:
    return DirectionFile(
        read_gguf_directions(path), lambda moved, out: write_gguf_directions(path, moved, out)
    )


READERS: dict[str, Callable[[Path], DirectionFile]] = {
    ".safetensors": _safetensors,
    ".npy": _npy,
    ".pt": _torch,
    ".pth": _torch,
    ".gguf": _gguf,
}
"""The reader of each format, by how its files are named."""


def _collect(content: Any, place: tuple[str, ...], tensors: dict[str, Tensor]) -> None:
    """Add every tensor in nested dicts and lists to ``tensors``."""
    if isinstance(content, Tensor):
        name = ".".join(place) or ALONE
        if name in tensors:
            raise ValueError(f"two tensors are named {name}")
        tensors[name] = content
    elif isinstance(content, Mapping | list | tuple):
        items = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in items:
            _collect(value, (*place, str(key)), tensors)


def _replaced(content: Any, place: tuple[str, ...], moved: Mapping[str, Tensor]) -> Any:
    """Return a copy of nested dicts and lists with the tensors in ``moved``."""
    if isinstance(content, Tensor):
        new = moved[".".join(place) or ALONE]
        return nn.Parameter(new, content.requires_grad) if isinstance(content, nn.Parameter) else new
    if isinstance(content, Mapping):
        new_content: Any = copy.copy(content)  # of the same class, with what else it holds
        for k, v in content.items():
            new_content[k] = _replaced(v, (*place, str(k)), moved)
        return new_content
    if isinstance(content, list | tuple) and not isinstance(content, torch.Size):
        return type(content)(_replaced(v, (*place, str(i)), moved) for i, v in enumerate(content))
    return content
