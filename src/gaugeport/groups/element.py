"""What every gauge element offers: a width, comparison by content, and a file of its own."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import save_file
from torch import Tensor


class Element:
    """What every gauge element offers; the concrete classes below say how.

    ``group`` is the name used in configs and tables, ``size`` the width d of the residual stream.
    """

    group: ClassVar[str]

    @property
    def size(self) -> int:
        raise TypeError(f"{type(self).__name__} is not a concrete gauge element")

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def _metadata(self) -> dict[str, str]:
        return {}

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = self._tensors(), other._tensors()  # type: ignore[attr-defined]
        return all(torch.equal(mine[k], theirs[k]) for k in mine)

    def __hash__(self) -> int:
        # + 0 because -0.0 and 0.0 are equal but differ in bytes
        return hash((self.group, *((t + 0).numpy().tobytes() for t in self._tensors().values())))

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
        """Write one safetensors file holding the element and, in its metadata, its group and provenance.

        The file is written aside and renamed, so a crash never leaves half a gauge.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        metadata = {"gaugeport_group": self.group, "provenance": json.dumps(provenance or {}, sort_keys=True)}
        metadata |= self._metadata()
        save_file({k: v.contiguous() for k, v in self._tensors().items()}, aside, metadata=metadata)
        os.replace(aside, path)
        return path

    @classmethod
    def load(cls, path: str | Path, width: int | None = None) -> Self:
        """Read an element written by :meth:`save`.

        Raises ``ValueError`` when the file holds another group than this class, or a width other than ``width``.
        """
        from gaugeport.groups.files import load  # it knows every class, this one among them

        element = load(path, width)
        if type(element) is not cls:
            raise ValueError(
                f"{path} holds an element of group {element.group!r}; {cls.__name__} wants {cls.group!r}"
            )
        return element


def check_axis(x: Tensor, axis: int, size: int) -> None:
    """Raise ``ValueError`` unless ``axis`` of ``x`` has length ``size``."""
    if x.dim() == 0 or not -x.dim() <= axis < x.dim() or x.shape[axis] != size:
        raise ValueError(f"axis {axis} of a tensor of shape {tuple(x.shape)} is not the gauge's width {size}")


def describe(t: Tensor) -> str:
    """A tensor's dtype, shape and first values, for error messages."""
    values = t.flatten()[:6].tolist()
    return f"{t.dtype} of shape {tuple(t.shape)} starting {values}"
