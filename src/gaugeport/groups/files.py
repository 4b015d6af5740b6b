"""Read gauge files of any group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open

from gaugeport.groups.affine import AffineGauge, LinearGauge
from gaugeport.groups.algebra import GROUPS
from gaugeport.groups.element import Element


def load(path: str | Path, width: int | None = None) -> Element:
    """Read a gauge file of any group, as ``Element.save`` writes it.

    Args:
        path: The safetensors file.
        width: The width d that the element must have; None accepts any.

    Returns:
        The element, of the class it was saved from.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or holds no gauge, or if the gauge has another width.
    """
    path = Path(path)
    if path.is_dir():
        raise FileNotFoundError(f"expected a gauge file, got a folder: {path}")
    if not path.is_file():
        raise FileNotFoundError(f"gauge file does not exist: {path}")
    try:
        with safe_open(path, framework="pt") as f:
            metadata, tensors = f.metadata() or {}, {k: f.get_tensor(k) for k in f.keys()}
    except SafetensorError as e:
        raise ValueError(f"{path} is not a readable safetensors file: {e}") from e
    group = metadata.get("gaugeport_group")
    if group not in GROUPS:
        raise ValueError(
            f"{path} is not a gauge file: its metadata names group {group!r}; allowed: {', '.join(GROUPS)}"
        )
    element: Element
    try:
        if group == "affine":
            shift = tensors.pop("shift")
            linear = cast(LinearGauge, GROUPS[metadata["linear_group"]](**tensors))  # AffineGauge checks it
            element = AffineGauge(linear, shift)
        else:
            element = GROUPS[group](**tensors)
    except (KeyError, TypeError) as e:
        raise ValueError(
            f"{path} is not a complete gauge file of group {group!r}: it holds the tensors {sorted(tensors)}"
        ) from e
    if width is not None and element.size != width:
        raise ValueError(f"{path} holds a gauge of width {element.size}; expected the model's width {width}")
    return element


def provenance(path: str | Path) -> dict[str, Any]:
    """Read the provenance that a gauge file was saved with."""
    with safe_open(Path(path), framework="pt") as f:
        return json.loads((f.metadata() or {}).get("provenance", "{}"))
