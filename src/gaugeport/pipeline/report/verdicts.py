"""Name what the seeds say about a claim: the words are the same in every table."""

from __future__ import annotations

from collections.abc import Mapping

from gaugeport.pipeline.report.claims import CHOSEN, Claim
from gaugeport.pipeline.report.intervals import Interval, Pair, pairs_interval_of, share_interval

VERDICTS = {
    "matched": "reproduced, and the interval lies at the paper's figure or on its better side",
    "reproduced": "the papers claim it, it could have failed here, and the interval excludes the null",
    "supported": "the same of a claim that is ours",
    "contradicted": "the interval lies on the other side of the null",
    "inconclusive": "the interval contains the null",
    "by construction": "it holds, and what is planted, a label or a theorem leaves no other outcome",
    "void": "nothing was there to measure, or a setting that was chosen decides it",
    "direction only": "fewer than five seeds, which lie beyond the null on the whole",
    "not the direction": "fewer than five seeds, which do not",
    "not run": "no seed was measured",
}
"""Verdict -> what it says, from best to least. ``void`` and the two of few seeds say more in brackets."""

DECLARED_UNITS = 5
"""Training seeds below which only a direction is reported."""

FIGURES_COUNT = ("real", "toy", "paper")
"""Profiles of models like the paper's, where a figure is compared with the paper's."""

SETTINGS_DECLARED = ("real",)
"""Profiles all of whose settings were declared before their first run."""


def judge(claim: Claim, values: Mapping[Pair, float], profile: str) -> tuple[str, float, float, float, int]:
    """Judge a claim from one value per training seed, or per pair of seeds.

    Args:
        claim: The claim.
        values: Its difference, by anchor and seed. Where all pairs of some seeds are there the unit is each
            of the seeds, else the other seed of pairs that share one (:func:`~.intervals.pairs_interval_of`).
        profile: ``mini``, ``paper``, ...; only at :data:`FIGURES_COUNT` is a figure compared with the
            paper's.

    Returns:
        Verdict (one of :data:`VERDICTS`, with the reason or n in brackets), mean, ends of the 95 % interval,
        and n. A claim that is ``counted`` is judged by the share of seeds beyond the null, against a half, at
        the lowest anchor alone: an exact share needs independent units.
    """
    if not values:
        return "not run", float("nan"), float("nan"), float("nan"), 0
    mean, low, high, n = _interval(claim, values)
    if claim.unjudged and not (claim.unjudged in CHOSEN and profile in SETTINGS_DECLARED):
        return f"void ({claim.unjudged})", mean, low, high, n
    sign = 1 if claim.direction == "greater" else -1
    beyond = [sign * (v - claim.null_value) for v in (mean, low, high)]
    if claim.counted:
        hits = [sign * (v - claim.null_value) > 0 for (a, _), v in values.items() if a == min(values)[0]]
        *share, n = share_interval(hits)
        beyond = [v - 0.5 for v in share]
    if claim.by_construction and beyond[0] > 0 and (n < DECLARED_UNITS or min(beyond[1:]) > 0):
        return "by construction", mean, low, high, n
    if n < DECLARED_UNITS:
        found = "direction only" if beyond[0] > 0 else "not the direction"
        return f"{found} (n = {n})", mean, low, high, n
    if max(beyond[1:]) < 0:
        return "contradicted", mean, low, high, n
    if min(beyond[1:]) <= 0:
        return "inconclusive", mean, low, high, n
    if profile in FIGURES_COUNT and _is_at_the_figure(claim, low, high):
        return "matched", mean, low, high, n
    return "reproduced" if claim.is_the_papers else "supported", mean, low, high, n


def _interval(claim: Claim, values: Mapping[Pair, float]) -> Interval:
    return pairs_interval_of(claim.metric if claim.right is None else "difference", values)


def _is_at_the_figure(claim: Claim, low: float, high: float) -> bool:
    """Return whether an interval lies within the paper's figure ± delta, or wholly on its better side."""
    if claim.paper is None:
        return False
    near = low >= claim.paper - claim.delta and high <= claim.paper + claim.delta
    better = low >= claim.paper if claim.direction == "greater" else high <= claim.paper
    return near or (better and not claim.two_sided)
