"""Carrying what is written in one model's residual coordinates into another's."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaugeport.transport.model import transport_model

__all__ = ["transport_model"]

_HOME = {"transport_model": "model"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"gaugeport.transport.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
