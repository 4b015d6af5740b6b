"""Read files of tensors without running code from them, with one error that names the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor


def existing_file(path: str | Path) -> Path:
    """Return ``path`` if it is a file. Raises ``FileNotFoundError`` otherwise."""
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"expected a file, got a folder: {path}")
    if not path.is_file():
        raise FileNotFoundError(f"file does not exist: {path}")
    return path


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Args:
        path: The file.

    Returns:
        The tensors by name, and the metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged.
    """
    with _opened(path) as f:
        return {k: f.get_tensor(k) for k in f.keys()}, dict(f.metadata() or {})


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the metadata of a safetensors file alone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged.
    """
    with _opened(path) as f:
        return dict(f.metadata() or {})


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    path = existing_file(path)
    try:
        with safe_open(path, framework="pt") as f:
            yield f
    except Exception as e:  # a damaged file breaks in many places of the library
        raise ValueError(f"{path} is not a readable safetensors file: {first_line(e)}") from e


def read_torch(path: str | Path) -> Any:
    """Read a file that ``torch.save`` wrote, with ``weights_only=True``: tensors and plain Python values.

    Args:
        path: The file.

    Returns:
        What it holds, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or holds objects of other classes.
    """
    path = existing_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # a damaged file breaks in many places of torch
        raise ValueError(
            f"{path} cannot be read as plain tensors (it is damaged, or it holds Python objects, which are "
            f"never unpickled): {first_line(e)}"
        ) from e


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors by name from a safetensors file, or from one that ``torch.save`` wrote.

    Args:
        path: The file; one named ``*.safetensors`` is read as that.

    Returns:
        The tensors, in the class of mapping that the file has, and the metadata of a safetensors file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or holds something other than plain tensors by name.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    content = read_torch(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict of tensors by name, got a {type(content).__name__}")
    for name, t in content.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: expected tensors by name, but one is named {name!r:.60}")
        if not isinstance(t, Tensor) or t.is_meta or t.layout != torch.strided or t.is_quantized:
            what = f"a {t.layout} tensor on {t.device}" if isinstance(t, Tensor) else f"a {type(t).__name__}"
            raise ValueError(f"{path}: expected plain tensors by name, but {name} is {what}")
    return content, {}


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not JSON, or holds something other than an object.
    """
    path = existing_file(path)
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as e:
        raise ValueError(f"{path} is not readable JSON: {first_line(e)}") from e
    return parse_object(text, str(path))


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object. Raises ``ValueError`` for anything else, naming ``where`` the text stands."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise ValueError(f"{where} is not readable JSON: {first_line(e)}") from e
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a JSON object, got a {type(content).__name__}")
    return content


def first_line(e: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(e).strip() or type(e).__name__).splitlines()[0]
