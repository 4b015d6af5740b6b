"""Move the objects in which two libraries keep steering vectors by layer.

These are ``SteeringVector`` of steering-vectors, with tensors in ``layer_activations``, and ``ControlVector``
of repeng, with numpy arrays in ``directions``. Neither library is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gaugeport.groups import Element, check_is_element
from gaugeport.transport.direction_files import check_direction_site
from gaugeport.transport.directions import transport_direction

Vector = TypeVar("Vector")
FIELDS = ("layer_activations", "directions")


def transport_steering_vector(vector: Vector, g: Element) -> Vector:
    """Return a steering vector of all its layers in the coordinates of B.

    Args:
        vector: A ``SteeringVector`` of the steering-vectors library, or a ``ControlVector`` of repeng. It is
            not changed.
        g: The gauge from A to B, of any group. An :class:`AffineGauge` acts by its linear part.

    Returns:
        A new object of the same class. Each layer's vector keeps its dtype and device.

    Raises:
        TypeError: If ``vector`` is another object, or ``g`` is not a gauge element.
        ValueError: If a layer's vector has another width, or if a rotation would act behind the gain of a
            norm (``layer_type``).
    """
    check_is_element(g)
    name = next((f for f in FIELDS if isinstance(getattr(vector, f, None), Mapping)), None)
    if name is None or not dataclasses.is_dataclass(vector) or isinstance(vector, type):
        raise TypeError(
            "expected a SteeringVector of steering-vectors or a ControlVector of repeng, got "
            f"{type(vector).__name__}; transport_direction moves tensors, transport_direction_file files"
        )
    check_direction_site(getattr(vector, "layer_type", None), g)
    moved = {layer: _moved(v, g) for layer, v in getattr(vector, name).items()}
    return dataclasses.replace(vector, **{name: moved})


def _moved(v: Any, g: Element) -> Any:
    if isinstance(v, np.ndarray):
        native = np.array(v, dtype=v.dtype.newbyteorder("="))
        return transport_direction(torch.from_numpy(native), g).numpy().astype(v.dtype)
    if not isinstance(v, Tensor):
        raise TypeError(f"expected a tensor or numpy array for each layer, got {type(v).__name__}")
    return transport_direction(v, g)
