"""Carrying what is written in one model's residual coordinates into another's."""

from gaugeport.transport.model import transport_model

__all__ = ["transport_model"]
