"""Say in one sentence what follows from an alignment, and whether its gauge should be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gaugeport.tool.answer import percent

AS_GOOD = 0.9
"""A gauge explains as much as the largest group if it explains at least this share of what that explains."""

SHOWN = {
    "identity": "no gauge",
    "permutation": "S_d",
    "global_sign_permutation": "S_d × {±1}",
    "signed_permutation": "B_d",
    "mean_preserving_orthogonal": "rotations that keep the mean",
    "orthogonal": "O(d)",
    "affine": "rotation, scale and shift",
}
"""Group -> how it is shown."""

ROTATIONS = ("orthogonal", "mean_preserving_orthogonal")


@dataclass(frozen=True)
class Found:
    """What is known of an alignment.

    Attributes:
        group: The group of its gauge.
        doubtful: Whether too many coordinates have a margin of 0 or less.
        not_ahead: The share of such coordinates, of a walk's weakest link; it says nothing of rotations.
        explained: Group -> the share of B's held-out variance that the group's gauge explains; empty where no
            text was read.
        folded: Whether all gains of A are 1, and of B.
        walked: Whether the gauge was composed along checkpoints.
    """

    group: str
    doubtful: bool
    not_ahead: float
    explained: Mapping[str, float]
    folded: tuple[bool, bool]
    walked: bool = False


def conclude(found: Found) -> tuple[str, bool]:
    """Return the sentence, and whether the gauge can be used as it is."""
    if found.folded[0] != found.folded[1]:
        unfolded, other = ("A", "B") if found.folded[1] else ("B", "A")
        return (
            f"all gains of {other} are 1 and those of {unfolded} are not: if {other} is a folded or rotated "
            f"copy, fold the gains of {unfolded} first; if it is a model before training, the gauge holds",
            False,
        )
    ours = found.explained.get(found.group)
    best = max((v for k, v in found.explained.items() if k != "affine"), default=None)
    rotation = next((found.explained[k] for k in ROTATIONS if k in found.explained), None)
    if found.group in (*ROTATIONS, "affine"):
        if found.folded[0] and found.group in ROTATIONS:
            return "all gains are 1: the rotation is a gauge of both; nothing will move optimizer state", True
        return "use the rotation for activations; it is no gauge of the weights", True
    if ours is not None and rotation is not None and ours < AS_GOOD * rotation:
        if found.doubtful:
            return (
                f"independent models: {SHOWN[found.group]} explains {max(ours, 0):.2f} of B's stream where a "
                f"rotation explains {rotation:.2f}; use the rotation for activations (--group orthogonal), "
                "and nothing will move optimizer state",
                False,
            )
        return (
            f"one base, but B's stream has turned: {SHOWN[found.group]} explains {ours:.2f} of it, a "
            f"rotation {rotation:.2f}; the gauge moves weights and optimizer state, a rotation moves "
            "activations better",
            True,
        )
    if found.doubtful:
        help_ = "weights (--evidence weights)" if found.walked else "weights, or checkpoints (--along)"
        return (
            f"not certain: {percent(found.not_ahead)} of the coordinates have a better candidate elsewhere; "
            f"try more text, all sites, {help_}",
            False,
        )
    if ours is not None and best is not None and ours < AS_GOOD * best:
        return f"one base, but only {ours:.2f} of B's stream is explained; compare other sites", False
    return "one base: use this gauge", True
