"""Say when a matching looks like that of unrelated models, why it may, and what would help.

A margin of 0 or less means that a coordinate would rather have another partner than the one the matching
gives it. Between unrelated models that is so for about half of them: in a large random assignment, a row gets
its k-th best column with probability 2^-k (Aldous 2001, "The ζ(2) limit in the random assignment problem").
In a matching that is right it is so for few. The rule was set before its rates were measured: halfway
between.

Measured by ``experiments/benchmarks/unrelated_margins.py`` on random Llamas and streams (noise stands for
drift; 20 unrelated pairs of each kind at widths 32 to 576, 10 related ones at 64 and 256):

- missed: 0 of 500 unrelated pairs (shares from .25 at width 32, from .34 at width 64, from .41 at 256) and 0
  of 178 noisy copies with over half of their coordinates wrong;
- false: 0 of 324 noisy copies with every coordinate right;
- between: at noise that leaves 64 to 85 % right on average, 19 of 30 pairs get the warning; at noise that
  leaves 98 to 99 %, 2 of 20.
"""

from __future__ import annotations

import torch

from gaugeport.alignment.fit import rotation_group
from gaugeport.alignment.matchers import MATCHERS, cross_moment
from gaugeport.alignment.pair_evidence import Evidence
from gaugeport.alignment.result import Alignment
from gaugeport.alignment.variance import inner_product
from gaugeport.groups import GROUPS, LinearGauge, SignedPermutation

UNRELATED_SHARE = 0.5
"""The share of margins at or below 0 between unrelated models, in theory."""

WARN_FROM_SHARE = UNRELATED_SHARE / 2
"""``align`` warns from this share of margins at or below 0."""

ROTATED_COPY = 0.9
"""One model is a rotated copy of the other if a rotation's predictions correlate by this much with B."""

TOKENS_PER_COORDINATE = 2
"""Below so many tokens per coordinate, a rotation fits independent streams: they correlate by .85 √(d/n)."""

FEW_TOKENS_PER_COORDINATE = 10
"""Below so many tokens per coordinate, more of them are advised: correlations have noise of 1/√n."""


def doubt(alignment: Alignment, ev: Evidence, in_walk: bool = False) -> str | None:
    """Return why a matching should be doubted and what would help, or None.

    Args:
        alignment: a matching.
        ev: the evidence that it was matched from.
        in_walk: it is a link of a walk along checkpoints.
    """
    share = alignment.share_without_margin
    if not MATCHERS[alignment.matcher].margins_are_scores or share < WARN_FROM_SHARE:
        return None
    found = (
        f"{share:.0%} of the coordinates have a margin of 0 or less: they would rather have another partner "
        f"(between unrelated models about {UNRELATED_SHARE:.0%} would, in a fit that is right few). "
    )
    return found + (_folding(ev) or _rotation(alignment, ev) or _advice(alignment, ev, in_walk))


def _folding(ev: Evidence) -> str | None:
    """Blame folding if the gains of one model only are all 1."""
    a, b = ev.chart_a, ev.chart_b
    if a.folded == b.folded or not (a.foldable and b.foldable):
        return None
    folded, other = ("A", "B") if a.folded else ("B", "A")
    return (
        f"The gains of {folded} are all 1 and those of {other} are not: {folded} may be a folded and rotated "
        f"copy. Call fold_gains({other}) and align again; the group of two folded models is "
        f"{rotation_group(a)}"
    )


def _rotation(alignment: Alignment, ev: Evidence) -> str | None:
    """Blame a rotation if one relates the models and this gauge does not."""
    scores = _correlations(alignment, ev)
    if scores is None or scores[0] < ROTATED_COPY or scores[1] > scores[0] / 2:
        return None
    return (
        f"A rotation relates the models (correlation {scores[0]:.2f}) where this gauge does not "
        f"({scores[1]:.2f}): one is a rotated copy of the other. Fold the gains of both (fold_gains) and "
        f"align with group={rotation_group(ev.chart_a)!r}"
    )


def _correlations(alignment: Alignment, ev: Evidence) -> tuple[float, float] | None:
    """Return how well the best rotation and the alignment's gauge predict B, as correlations.

    With the best scale, a gauge of correlation ρ explains ρ² of B's variance. None where there are too few
    tokens to tell.
    """
    if alignment.evidence == "weights":
        cosines = ev.weights
        if cosines is None:
            return None
        return float(torch.linalg.svdvals(cosines).sum()) / ev.width, alignment.objective / ev.width
    moments = [(ev.moments or ev.moments_with_mean)[site] for site in alignment.sites]
    if min(m.n for m in moments) < TOKENS_PER_COORDINATE * ev.width:
        return None
    cross = torch.stack([cross_moment(m) for m in moments]).mean(0)
    assert isinstance(alignment.gauge, LinearGauge)
    return float(torch.linalg.svdvals(cross).sum()), inner_product(alignment.gauge, cross)


def _advice(alignment: Alignment, ev: Evidence, in_walk: bool) -> str:
    """Return what helps against drift, of what was not done, and what to do if there is no common base."""
    helps = []
    exact = ev.group
    if exact != alignment.group and issubclass(GROUPS[exact], SignedPermutation):
        helps.append(f"match in the models' own group (group={exact!r})")
    if alignment.evidence != "weights" and len(alignment.sites) <= ev.n_blocks:
        helps.append("pool all sites (sites='all')")
    if alignment.evidence != "weights" and ev.tokens < FEW_TOKENS_PER_COORDINATE * ev.width:
        helps.append(f"use more than {ev.tokens} tokens")
    if alignment.evidence == "activations":
        helps.append("add the weights (evidence='both')")
    helps.append(
        "put more checkpoints into the walk" if in_walk else "compose the checkpoints between (align_along)"
    )
    return (
        f"If the models come from one base and drifted, it helps to {', '.join(helps)}. If they do not, no "
        f"{alignment.group.replace('_', ' ')} relates them: fold the gains of both (fold_gains) and fit a "
        f"rotation (group={rotation_group(ev.chart_a)!r}, allow_larger=True)"
    )
