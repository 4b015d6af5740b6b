"""Table b6: whether the data can tell the rotation between two models from a Haar-random one.

Paper B, section 8.3.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gaugeport.alignment.matchers import match
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.maps import MATCHER_OF_GROUP
from gaugeport.pipeline.rotation.haar.null import Null, naive_p_value, p_value, stored_null
from gaugeport.pipeline.rotation.haar.rank import (
    RotationFit,
    Spectrum,
    far_below_haar,
    fit_rotation,
    independent_rows,
    low_rank_copies,
    spectrum,
    supported_distance,
)
from gaugeport.pipeline.rotation.haar.statistics import (
    TAILS,
    eigenangles,
    free_part,
    random_rotation,
    rotation_statistics,
    signed_angles,
)
from gaugeport.pipeline.stages import pairs
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_cohort
from gaugeport.pipeline.tasks.shared.streams import kept_streams
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.utils.seeds import generator

NULL_SEED = 0
"""Seed of the Monte-Carlo null: one for all jobs, so that each width's null is drawn once."""

ROTATED_CONTROLS = 8
"""Random rotations of the cross moment that the smaller groups' share of the objective is compared with."""

NULL_RANGE = (0.025, 0.975)
"""Quantiles of the null that its rows report."""


def measure(job: Job, built: Built) -> list[Row]:
    """Return statistics of the rotation from the anchor to the other at every site, against Haar."""
    anchor, other = pairs.load_pair(job, built.folders)
    streams_a, streams_b = (side.streams("fit", job.task["tokens"]) for side in (anchor, other))
    haar = anchor.rotation_group
    rows: list[Row] = []
    for site in anchor.sites:
        a, b = kept_streams(job, streams_a, streams_b, site)
        width = a.shape[1]
        null = stored_null(built.cache, width, job.task["draws"], NULL_SEED, haar)
        measured = site_rows(a, b, null, job.task["share"], generator(job.seed, "haar", site))
        rows += [{"site": site, "width": width, "haar": haar, **row} for row in measured]
    return [{"cohort": job.task["cohort"], **row} for row in rows]


def site_rows(a: Tensor, b: Tensor, null: Null, share: float, gen: torch.Generator) -> list[Row]:
    """Compare the rotation between two streams with Haar-random ones.

    Args:
        a: The anchor's stream at a site, float32[tokens, d].
        b: The other model's stream on the same tokens.
        null: Statistics of Haar-random rotations of the same width and group.
        share: The share of ``a``'s variance that its support holds.
        gen: Source of the controls' random numbers.

    Returns:
        Rows without cohort and site.
    """
    # 1) the rotation's statistics, against Haar's
    components = spectrum(a)
    support = components.support(share)
    fit = fit_rotation(a, b, null.group)
    statistics = _statistics(fit, support, null)
    rows: list[Row] = [{"metric": name, "value": value} for name, value in statistics.items()]
    rows += _against_haar(statistics, support.shape[1], null)
    rows += _angles(fit.rotation, null)
    rows += _ranks(components, b, share)
    # 2) the same statistics where the answer is known: no rotation at low rank, and no relation
    controls = {
        "low_rank_identity": low_rank_copies(a, support, gen, group=null.group),
        "independent_noise": independent_rows(a, b, gen),
    }
    for control, (x, y) in controls.items():
        of_control = _statistics(fit_rotation(x, y, null.group), support, null)
        rows += [
            {"metric": f"control_{name}", "control": control, "value": value}
            for name, value in of_control.items()
        ]
    # 3) the smaller groups
    of_rotation = [{"group": "orthogonal", **row} for row in rows]
    return [*of_rotation, *_smaller_groups(fit.cross, null.group, gen)]


def _statistics(fit: RotationFit, support: Tensor, null: Null) -> dict[str, float]:
    """Return the statistics of a fit's matrix, of its action on the support, and the fit's correlation."""
    supported = supported_distance(fit.rotation, support)
    least = float(null.supported_distance(support.shape[1]).min())
    return {
        **rotation_statistics(fit.rotation, null.group),
        "supported_distance": supported,
        "far_below_haar_on_support": float(far_below_haar(supported, least)),
        "correlation": fit.correlation,
    }


def _against_haar(statistics: dict[str, float], rank: int, null: Null) -> Iterator[Row]:
    """Yield the calibrated p-value of every statistic whose null is known, and the null's mean and range."""
    draws = {**null.statistics, "supported_distance": null.supported_distance(rank)}
    tails = {**TAILS, "supported_distance": "small"}
    for name, tail in tails.items():
        p = p_value(statistics[name], draws[name], tail)
        yield {"metric": "p_value", "statistic": name, "test": "calibrated", "value": p}
        low, high = draws[name].quantile(torch.tensor(NULL_RANGE, dtype=torch.float64)).tolist()
        values = {"null_mean": float(draws[name].mean()), "null_low": low, "null_high": high}
        for metric, value in values.items():
            yield {"metric": metric, "statistic": name, "value": value}


def _ranks(components: Spectrum, b: Tensor, share: float) -> Iterator[Row]:
    """Yield the effective rank and the rank at ``share`` of both streams."""
    for side, of_side in {"anchor": components, "other": spectrum(b)}.items():
        yield {"metric": f"effective_rank_{side}", "value": of_side.participation}
        yield {"metric": f"rank_{side}", "value": of_side.rank(share)}


def _angles(r: Tensor, null: Null) -> Iterator[Row]:
    """Yield the paper's p-value of this matrix, and its eigen-angles (both signs of a conjugate pair)."""
    angles = eigenangles(free_part(r, null.group))
    signed = signed_angles(angles)
    naive = naive_p_value(signed, null.reference)
    yield {"metric": "p_value", "statistic": "ks_distance", "test": "naive", "value": naive}
    for rank, angle in enumerate(signed.tolist()):
        yield {"metric": "eigen_angle", "rank": rank, "value": angle}


def _smaller_groups(cross: Tensor, haar: str, gen: torch.Generator) -> Iterator[Row]:
    """Yield how far permutations and signed permutations explain the cross moment C [d, d].

    Of each group, the element g that maximises ⟨g, C⟩: its distance from the identity, and its share of what
    the best rotation attains. The control is this share where C is rotated at random.
    """
    attained = float(torch.linalg.svdvals(cross).sum())
    d = len(cross)
    rotated = [random_rotation(d, haar, gen) @ cross for _ in range(ROTATED_CONTROLS)]
    for group in ("permutation", "signed_permutation"):
        best = match(cross, group, MATCHER_OF_GROUP[group])
        distance = float((best.gauge.dense() - torch.eye(d, dtype=torch.float64)).norm())
        yield {"metric": "distance_from_identity", "group": group, "value": distance / (2 * d) ** 0.5}
        yield {"metric": "objective_share", "group": group, "value": best.objective / attained}
        shares = [match(c, group, MATCHER_OF_GROUP[group]).objective / attained for c in rotated]
        control = {"metric": "control_objective_share", "control": "haar_rotated", "group": group}
        yield {**control, "value": sum(shares) / len(shares)}


TASK = Task(measure, pairs.pair_stages, check_cohort)
