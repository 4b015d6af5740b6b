"""Reading gauge files of any group."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gaugeport.groups.affine import AffineGauge
from gaugeport.groups.algebra import GROUPS
from gaugeport.groups.element import Element


def load(path: str | Path, width: int | None = None) -> Element:
    """Read a gauge file of any group.

    Raises ``FileNotFoundError`` when it is missing, ``ValueError`` when it is damaged, is no gauge file, or its
    width is not ``width``.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no gauge file at {path}{', which is a folder' if path.is_dir() else ''}")
    try:
        with safe_open(path, framework="pt") as f:
            metadata, tensors = f.metadata() or {}, {k: f.get_tensor(k) for k in f.keys()}
    except SafetensorError as e:
        raise ValueError(f"{path} is not a readable safetensors file: {e}") from e
    group = metadata.get("gaugeport_group")
    if group not in GROUPS:
        raise ValueError(
            f"{path} is no gauge file: group {group!r} in its metadata; allowed: {', '.join(GROUPS)}"
        )
    element: Element
    try:
        if group == "affine":
            shift = tensors.pop("shift")
            element = AffineGauge(GROUPS[metadata["linear_group"]](**tensors), shift)
        else:
            element = GROUPS[group](**tensors)
    except (KeyError, TypeError) as e:
        raise ValueError(
            f"{path} is no complete gauge file of group {group!r}: it holds {sorted(tensors)}"
        ) from e
    if width is not None and element.size != width:
        raise ValueError(
            f"{path} holds a gauge of width {element.size}; the model's residual width is {width}"
        )
    return element


def provenance(path: str | Path) -> dict[str, Any]:
    """The provenance a gauge file was saved with."""
    with safe_open(Path(path), framework="pt") as f:
        return json.loads((f.metadata() or {}).get("provenance", "{}"))
