"""Say what an alignment found: the gauge, how clearly each coordinate was placed, and from what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gaugeport.groups import Element

SITES_LISTED = 4
"""``print`` names the first and the last site where there are more than this."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """A recovered gauge, how clearly each coordinate was placed, and how it was found.

    To try another threshold without matching again, use ``dataclasses.replace(alignment, abstain=x)``.
    """

    gauge: Element
    """The element g with ``g·x_A ≈ x_B``."""
    margin: Tensor
    """float64[d], one margin per coordinate of B."""
    objective: float
    """The value that the matcher maximised."""
    group: str
    matcher: str
    evidence: str
    """``activations``, ``weights`` or ``both``."""
    sites: tuple[str, ...]
    """The sites whose activations were used; empty for weight evidence."""
    abstain: float | None = None
    """Coordinates with a margin below this are left out of ``kept``."""
    massive_tokens: Mapping[str, int] = field(default_factory=dict)
    """Site -> how many tokens were left out because their activations are massive."""
    links: tuple[Alignment, ...] = ()
    """The alignments of neighbouring checkpoints that ``align_along`` composed, in walking order; else ()."""

    @property
    def kept(self) -> Tensor:
        """Return bool[d]: which coordinates *of B* have a margin of at least ``abstain``.

        Without a threshold all of them are kept.

        Pass this to ``transport_direction(v, g, kept=...)`` and ``transport_indices(indices, g, kept=...)``.
        A direction then loses the share ``lost_share(v, g, kept)`` of its squared length; an index list loses
        the entries that it reports as ``dropped``. Models, SAEs and optimizer states can only be moved as a
        whole, by the complete ``gauge``.
        """
        if self.abstain is None:
            return torch.ones_like(self.margin, dtype=torch.bool)
        return self.margin >= self.abstain

    @property
    def share_without_margin(self) -> float:
        """Return the share of coordinates with a margin of 0 or less: another partner scores as high."""
        return float((self.margin <= 0).double().mean())

    def provenance(self) -> dict[str, Any]:
        """Return what to store with the gauge: ``alignment.gauge.save(path, alignment.provenance())``."""
        return {
            "group": self.group,
            "matcher": self.matcher,
            "evidence": self.evidence,
            "objective": self.objective,
            "abstain": self.abstain,
            "sites": list(self.sites),
            "massive_tokens": dict(self.massive_tokens),
            "kept": int(self.kept.sum()),
        }

    def __str__(self) -> str:
        places = ", ".join(self.sites)
        if len(self.sites) > SITES_LISTED:
            places = f"{len(self.sites)} sites ({self.sites[0]} to {self.sites[-1]})"
        source = {"activations": "activations", "weights": "weights", "both": "weights and activations"}
        at = f" at {places}" if places else ""
        walk = f", composed of {len(self.links)} links" if self.links else ""
        return (
            f"{self.group} by {self.matcher} from {source[self.evidence]}{at}{walk}\n"
            f"kept {int(self.kept.sum())} of {len(self.margin)}, median margin "
            f"{float(self.margin.median()):.3g}, {self.share_without_margin:.1%} of margins <= 0"
        )


def check_some_kept(alignment: Alignment) -> None:
    """Raise ``ValueError`` if the threshold ``abstain`` leaves no coordinate."""
    if not bool(alignment.kept.any()):
        raise ValueError(
            f"abstain={alignment.abstain} leaves no coordinate: "
            f"the largest margin is {float(alignment.margin.max()):.4g}"
        )
