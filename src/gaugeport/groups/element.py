"""Declare what every gauge element offers: a width, an action, comparison by content, and a file."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from gaugeport.utils.files import atomic_file


class Element(ABC):
    """An element of a gauge group. Concrete classes are frozen dataclasses whose fields are tensors.

    ``group`` is the group's name in configs and tables.
    """

    group: ClassVar[str]

    @property
    @abstractmethod
    def size(self) -> int:
        """The width d of the residual stream that the element acts on."""

    @classmethod
    @abstractmethod
    def identity(cls, d: int) -> Self:
        """Return the element of width ``d`` that changes nothing."""

    @classmethod
    @abstractmethod
    def random(cls, d: int, generator: torch.Generator | None = None) -> Self:
        """Draw an element of width ``d`` from ``generator``. Draws from compact groups are uniform (Haar)."""

    @abstractmethod
    def inverse(self) -> Self:
        """Return the element with ``g.inverse()·(g·x) = x``."""

    @abstractmethod
    def act(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on one axis of ``x``, of length d. Keep dtype and device."""

    @abstractmethod
    def act_gain(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on a *gain* axis (norm weights, second moments, magnitudes): permute only.

        Raises ``ValueError`` for an element that mixes coordinates: it has no action on magnitudes.
        """

    @abstractmethod
    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the matrix Q[d, d] with ``g·x = x @ Q.T``.

        Raises ``ValueError`` for an affine element: it has no matrix.
        """

    @abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """Return the tensors that define the element, by their names in its file."""

    def _metadata(self) -> dict[str, str]:
        """Return what the element's file says besides its group and provenance."""
        return {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Element) or type(self) is not type(other):
            return NotImplemented
        mine, theirs = self._tensors(), other._tensors()
        return all(torch.equal(mine[k], theirs[k]) for k in mine)

    def __hash__(self) -> int:
        # + 0 because -0.0 and 0.0 are equal but differ in bytes
        return hash((self.group, *((t + 0).numpy().tobytes() for t in self._tensors().values())))

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
        """Write the element atomically to one safetensors file, which ``gaugeport.load_gauge`` reads.

        Args:
            path: The file. Missing parent folders are made.
            provenance: Where the element comes from, as JSON values. It is kept in the file's metadata.

        Returns:
            The path written.

        Raises:
            TypeError: If ``provenance`` is not JSON.
        """
        path = Path(path)
        metadata = {"gaugeport_group": self.group, "provenance": json.dumps(provenance or {}, sort_keys=True)}
        metadata |= self._metadata()
        tensors = {k: v.contiguous() for k, v in self._tensors().items()}
        with atomic_file(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        return path


def check_axis(x: Tensor, axis: int, size: int) -> None:
    """Raise ``ValueError`` unless ``axis`` of ``x`` has length ``size``."""
    if x.dim() == 0 or not -x.dim() <= axis < x.dim() or x.shape[axis] != size:
        raise ValueError(
            f"axis {axis} of a tensor of shape {tuple(x.shape)} does not have the gauge's width {size}"
        )


def describe(t: Tensor) -> str:
    """Describe a tensor in an error message: dtype, shape and first values."""
    values = t.flatten()[:6].tolist()
    return f"{t.dtype} of shape {tuple(t.shape)} starting {values}"
