"""The vocabulary in which an architecture family says where its residual stream lives.

A family is data: which axis of which parameter is the stream, what a parameter does there, and which norm feeds a
reader. Matching, folding and transport read these declarations; they know no architecture by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Axis = Literal["vector", "gain", "none"]
"""What a gauge does to an axis: ``vector`` permute and sign, ``gain`` permute only, ``none`` nothing."""

Role = Literal[
    "embed",  # token embedding: its rows are stream vectors
    "unembed",  # reads the final norm
    "position",  # learned positions added to the stream
    "read",  # matrix from the stream into a head or a neuron
    "write",  # matrix from a head or a neuron into the stream
    "write_bias",  # bias added to the stream
    "gain",  # weight of a norm on the stream (or on what is written to it)
    "norm_bias",  # bias of such a norm
    "invariant",  # in no stream coordinate: qkv and neuron biases, q/k norms, rotary buffers
]

STREAM_MATRICES = ("embed", "read", "write", "unembed")
"""Roles of the matrices that carry weight evidence: they have one stream axis and one that no gauge touches."""


@dataclass(frozen=True)
class Rule:
    """What the axes of all parameters or buffers of one name pattern are.

    In ``pattern``, ``*`` stands for a block number and ``{a,b}`` for either text. ``axes`` names every axis in order.
    ``norm`` is the pattern of the norm *module* concerned: the one feeding a reader, or the one a gain or norm bias
    belongs to; its ``*`` is the same block number.
    """

    pattern: str
    axes: tuple[Axis, ...]
    role: Role
    norm: str | None = None

    def match(self, name: str) -> str | None:
        """The block number in ``name`` (empty text if the pattern has none), or None where the name does not match."""
        found = _compiled(self.pattern).fullmatch(name)
        if found is None:
            return None
        return found.group(1) if "*" in self.pattern else ""

    def norm_of(self, name: str) -> str | None:
        """The norm module that ``name`` belongs to or is fed by, block number filled in."""
        block = self.match(name)
        return None if self.norm is None or block is None else self.norm.replace("*", block)

    @property
    def stream_axis(self) -> int | None:
        """Index of the residual axis, None where there is none."""
        return next((i for i, kind in enumerate(self.axes) if kind != "none"), None)


@dataclass(frozen=True)
class Family:
    """One architecture family: its names in ``config.model_type``, its norms, where its parts are, and its rules.

    ``gain_offset`` is added to a norm's weight before it multiplies (1 in Gemma). ``post_norm`` says that a gained
    norm sits between a writer and the stream. ``neurons`` lists (pattern, axis) of every parameter with a neuron axis,
    the axis that ``charts.certify`` permutes to measure what mere summation order does; a fused gate/up axis holds
    the neurons twice.
    """

    name: str
    model_types: tuple[str, ...]
    norm: Literal["rms", "layer"]
    embedding: str
    blocks: str
    final_norm: str
    unembedding: str
    rules: tuple[Rule, ...]
    neurons: tuple[tuple[str, int], ...]
    gain_offset: float = 0.0
    post_norm: bool = False


def matches(pattern: str, name: str) -> bool:
    """Whether a parameter name fits a pattern of the form used in :class:`Rule`."""
    return _compiled(pattern).fullmatch(name) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    if pattern.count("*") > 1:
        raise ValueError(f"a pattern holds at most one block number '*', found {pattern!r}")
    out, inside = [], False
    for c in pattern:
        if c in "{}":
            inside = c == "{"
            out.append("(?:" if inside else ")")
        elif c == "*":
            out.append(r"(\d+)")
        else:
            out.append("|" if c == "," and inside else re.escape(c))
    return re.compile("".join(out))
