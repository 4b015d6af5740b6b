"""Define the vocabulary in which an architecture family declares where its residual stream lives.

A family is data: which axis of which parameter is the stream, what the parameter does there, and which norm
feeds a reader. Matching, folding and transport read these declarations and know no architecture by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Axis = Literal["vector", "gain", "none"]
"""What a gauge does to an axis: ``vector``: permute and sign; ``gain``: permute only; ``none``: nothing."""

Role = Literal[
    "embed",  # token embedding: its rows are stream vectors
    "unembed",  # reads the final norm
    "position",  # learned positions added to the stream
    "read",  # matrix from the stream into a head or a neuron
    "write",  # matrix from a head or a neuron into the stream
    "write_bias",  # bias added to the stream
    "gain",  # weight of a norm on the stream (or on what is written to it)
    "norm_bias",  # bias of such a norm
    "invariant",  # without a stream axis: qkv and neuron biases, q/k norms, rotary buffers
]

STREAM_MATRICES = ("embed", "read", "write", "unembed")
"""Roles of the matrices with one stream axis and one that no gauge touches. Weights are evidence in these."""


@dataclass(frozen=True)
class Rule:
    """Declare the axes of all parameters and buffers whose names fit one pattern.

    Attributes:
        pattern: ``*`` stands for a block number and ``{a,b}`` for either text.
        axes: The action on every axis, in order.
        role: What the parameter is to the stream.
        norm: The pattern of the norm *module* that feeds a reader, or that a gain or norm bias belongs to.
            Its ``*`` is the same block number.
    """

    pattern: str
    axes: tuple[Axis, ...]
    role: Role
    norm: str | None = None

    def match(self, name: str) -> str | None:
        """Return the block number in ``name`` ("" if the pattern has none), or None if it does not match."""
        match = _compiled(self.pattern).fullmatch(name)
        if match is None:
            return None
        return match.group(1) if "*" in self.pattern else ""

    def norm_of(self, name: str) -> str | None:
        """Return the norm module that ``name`` belongs to or reads from, with the block number filled in."""
        block = self.match(name)
        return None if self.norm is None or block is None else self.norm.replace("*", block)

    @property
    def stream_axis(self) -> int | None:
        """The index of the residual axis, or None if there is none."""
        return next((i for i, kind in enumerate(self.axes) if kind != "none"), None)


@dataclass(frozen=True)
class Family:
    """Declare one architecture family.

    Attributes:
        name: The name of the family and of its file in ``charts/``.
        model_types: Its names in ``config.model_type``.
        norm: The kind of its norms.
        embedding, blocks, final_norm, unembedding: The names of these modules.
        rules: One rule for every parameter and buffer.
        neurons: The (pattern, axis) of every parameter with an MLP-neuron axis. Permuting the neurons changes
            only the order of summation, and ``certify`` measures by how much that changes the logits. A fused
            gate/up axis holds the neurons twice.
        gain_offset: What is added to a norm's weight before it multiplies (1 in Gemma).
        post_norm: Whether a norm with a gain stands between a writer and the stream.
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
    """Return whether a parameter name fits a pattern, written as in :class:`Rule`."""
    return _compiled(pattern).fullmatch(name) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    if pattern.count("*") > 1:
        raise ValueError(f"a pattern has at most one block number '*', got {pattern!r}")
    parts, in_braces = [], False
    for c in pattern:
        if c in "{}":
            in_braces = c == "{"
            parts.append("(?:" if in_braces else ")")
        elif c == "*":
            parts.append(r"(\d+)")
        else:
            parts.append("|" if c == "," and in_braces else re.escape(c))
    return re.compile("".join(parts))
