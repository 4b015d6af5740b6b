"""Table b6: whether the rotation between two models is a Haar-random one, as far as the data decide it."""

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
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.utils.seeds import generator

NULL_SEED = 0
"""Of the Monte-Carlo null: one for all jobs, so that it is drawn once for each width."""

ROTATED = 8
"""Random rotations of the cross moment that the smaller groups' share of it is compared with."""


def measure(job: Job, built: Built) -> list[Row]:
    """Return statistics of the rotation from the anchor to the other at every site, against Haar."""
    anchor, other = pairs.load_pair(job, built.folders)
    a, b = (side.streams("fit", job.task["tokens"]) for side in (anchor, other))
    haar = anchor.rotation_group
    rows: list[Row] = []
    for site in anchor.sites:
        null = stored_null(built.cache, a[site].shape[1], job.task["draws"], NULL_SEED, haar)
        found = site_rows(a[site], b[site], null, job.task["share"], generator(job.seed, "haar", site))
        rows += [{"site": site, "width": a[site].shape[1], "haar": haar, **row} for row in found]
    return [{"cohort": job.task["cohort"], **row} for row in rows]


def site_rows(a: Tensor, b: Tensor, null: Null, share: float, gen: torch.Generator) -> list[Row]:
    """Return one site's rows from paired ``a`` and ``b`` [tokens, d]; ``share`` sets its support."""
    components = spectrum(a)
    support = components.support(share)
    fit = fit_rotation(a, b, null.group)
    found = _measured(fit, support, null)
    rows: list[Row] = [{"metric": name, "value": value} for name, value in found.items()]
    rows += [
        *_against_haar(found, support.shape[1], null),
        *_angles(fit.rotation, null),
        *_ranks(components, b, share),
    ]
    controls = {
        "low_rank_identity": low_rank_copies(a, support, gen, group=null.group),
        "independent_noise": independent_rows(a, b, gen),
    }
    for control, (x, y) in controls.items():
        same = _measured(fit_rotation(x, y, null.group), support, null)
        rows += [
            {"metric": f"control_{name}", "control": control, "value": value} for name, value in same.items()
        ]
    return [{"group": "orthogonal", **row} for row in rows] + list(_groups(fit.cross, null.group, gen))


def _measured(fit: RotationFit, support: Tensor, null: Null) -> dict[str, float]:
    """Of a fit: the statistics of its matrix, and those that know of the support."""
    supported = supported_distance(fit.rotation, support)
    least = float(null.supported_distance(support.shape[1]).min())
    return {
        **rotation_statistics(fit.rotation, null.group),
        "supported_distance": supported,
        "far_below_haar_on_support": float(far_below_haar(supported, least)),
        "correlation": fit.correlation,
    }


def _against_haar(found: dict[str, float], rank: int, null: Null) -> Iterator[Row]:
    """Of every statistic that Haar's is known of: its calibrated p-value, and Haar's mean and 95 % range."""
    draws = {**null.statistics, "supported_distance": null.supported_distance(rank)}
    for name, tail in {**TAILS, "supported_distance": "small"}.items():
        of = {"statistic": name}
        yield {
            "metric": "p_value",
            **of,
            "test": "calibrated",
            "value": p_value(found[name], draws[name], tail),
        }
        low, high = draws[name].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        values = {"null_mean": float(draws[name].mean()), "null_low": low, "null_high": high}
        yield from ({"metric": metric, **of, "value": value} for metric, value in values.items())


def _ranks(components: Spectrum, b: Tensor, share: float) -> Iterator[Row]:
    """Effective rank of the anchor's stream, and of the other's."""
    for end, found in {"anchor": components, "other": spectrum(b)}.items():
        yield {"metric": f"effective_rank_{end}", "value": found.participation}
        yield {"metric": f"rank_{end}", "value": found.rank(share)}


def _angles(r: Tensor, null: Null) -> Iterator[Row]:
    """Return the paper's p-value of this matrix, and its eigen-angles (both signs of a conjugate pair)."""
    angles = eigenangles(free_part(r, null.group))
    signed = signed_angles(angles)
    naive = naive_p_value(signed, null.reference)
    yield {"metric": "p_value", "statistic": "ks_distance", "test": "naive", "value": naive}
    yield from ({"metric": "eigen_angle", "rank": i, "value": x} for i, x in enumerate(signed.tolist()))


def _groups(cross: Tensor, haar: str, gen: torch.Generator) -> Iterator[Row]:
    """S_d and B_d beside O(d): the best element of each for the same objective ⟨g, C⟩, its share of what the
    best rotation attains, its distance from the identity; and as a control its share where C is rotated at
    random."""
    attained = float(torch.linalg.svdvals(cross).sum())
    d = len(cross)
    turned = [random_rotation(d, haar, gen) @ cross for _ in range(ROTATED)]
    for group in ("permutation", "signed_permutation"):
        found = match(cross, group, MATCHER_OF_GROUP[group])
        away = float((found.gauge.dense() - torch.eye(d, dtype=torch.float64)).norm())
        yield {"metric": "distance_from_identity", "group": group, "value": away / (2 * d) ** 0.5}
        yield {"metric": "objective_share", "group": group, "value": found.objective / attained}
        shares = [match(c, group, MATCHER_OF_GROUP[group]).objective / attained for c in turned]
        control = {"metric": "control_objective_share", "control": "haar_rotated", "group": group}
        yield {**control, "value": sum(shares) / ROTATED}


TASK = Task(measure, pairs.pair_stages, check_cohort)
