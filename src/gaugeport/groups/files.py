"""Read gauge files of any group. The format, which needs nothing of this package to be read:

A gauge is one safetensors file (https://github.com/huggingface/safetensors). Its tensors define the element,
and its metadata, a map from strings to strings, says which element it is and where it comes from:

=============================  ================================  =============================================
``gaugeport_group``            tensors                           ``g·x`` on row vectors ``x[..., d]``
=============================  ================================  =============================================
``permutation``,               ``perm`` int64[d],                ``x[..., perm] * sign``
``global_sign_permutation``,   ``sign`` int8[d], each +1 or -1
``signed_permutation``
``orthogonal``,                ``matrix`` float64[d, d]          ``x @ matrix.T``
``mean_preserving_orthogonal``
``affine``                     those of its linear part (named   ``scale`` times the linear part's ``g·x``,
                               by ``linear_group``), ``shift``   plus ``shift``; a file without ``scale`` has
                               float64[d], ``scale`` float64[]   scale 1
=============================  ================================  =============================================

``perm`` is a permutation of 0 to d-1: entry i of the result is ``sign[i] * x[..., perm[i]]``. A gain, a
variance or any other magnitude is ``x[..., perm]``, without the signs. ``provenance``, also in the metadata,
is a JSON object. In three lines, without this package::

    perm, sign = (safetensors.torch.load_file("g.safetensors")[k] for k in ("perm", "sign"))
    moved = x[..., perm] * sign                        # a stream, a direction, a row of a reader
    gains = weight[perm]                               # a norm's weight
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from gaugeport.groups.affine import AffineGauge, LinearGauge
from gaugeport.groups.algebra import GROUPS
from gaugeport.groups.element import Element
from gaugeport.utils.tensor_files import first_line, parse_object, read_metadata, read_safetensors


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
    tensors, metadata = read_safetensors(path)
    group = metadata.get("gaugeport_group")
    if group not in GROUPS:
        raise ValueError(
            f"{path} is not a gauge file: its metadata names group {group!r}; allowed: {', '.join(GROUPS)}"
        )
    held = sorted(tensors)
    element: Element
    try:
        if group == "affine":
            shift, scale = tensors.pop("shift"), cast(float, tensors.pop("scale", 1.0))  # type: ignore[call-overload]
            linear = cast(LinearGauge, GROUPS[metadata["linear_group"]](**tensors))  # AffineGauge checks it
            element = AffineGauge(linear, shift, scale)
        else:
            element = GROUPS[group](**tensors)
    except (KeyError, TypeError) as e:
        raise ValueError(
            f"{path} is not a complete gauge file of group {group!r}: it holds the tensors {held}"
        ) from e
    except (ValueError, RuntimeError) as e:  # torch cannot sort or compare every dtype
        raise ValueError(f"{path} holds no gauge of group {group!r}: {first_line(e)}") from e
    if width is not None and element.size != width:
        raise ValueError(f"{path} holds a gauge of width {element.size}; expected the model's width {width}")
    return element


def provenance(path: str | Path) -> dict[str, Any]:
    """Read the provenance that a gauge file was saved with.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or its provenance is not a JSON object.
    """
    return parse_object(read_metadata(path).get("provenance", "{}"), f"the provenance in {path}")
