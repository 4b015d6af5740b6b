"""Compare lists of A, moved to B by a recovered gauge, with the lists computed on B itself (table a10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gaugeport.groups import Element, SignedPermutation
from gaugeport.pipeline.measures.conditions import mean_over_plants
from gaugeport.pipeline.measures.importance import LISTS, Scores
from gaugeport.pipeline.measures.list_agreement import compare_lists

Row = dict[str, Any]

METRICS = ("precision", "rank_correlation", "sign_agreement")


def moved_list_rows(a: Scores, b: Scores, residuals: Sequence[Element], k: int) -> list[Row]:
    """Compare moved lists with native ones, for one condition.

    Under the identity (the oracle), the distance of a metric from 1 is drift. Neuron lists are compared as
    they are: a residual gauge leaves them unchanged.

    Args:
        a: scores of A.
        b: scores of B, in coordinates shared with A.
        residuals: the errors of the condition's gauges in shared coordinates, one per plant.
        k: length of the lists.

    Returns:
        Rows ``{list, metric, value}``, means over plants with their ``…_plants_sd``. Metrics: ``precision``,
        |moved ∩ native| / k; ``rank_correlation``, of all scores; ``sign_agreement``, of signed lists. A
        rotation moves no index: coordinate lists then have the one metric ``refused`` = 1.
    """
    rows: list[Row] = []
    for name, kind in LISTS.items():
        gauges = residuals if kind.space == "coordinate" else [SignedPermutation.identity(len(a[name]))]
        if not all(isinstance(g, SignedPermutation) for g in gauges):
            rows.append({"list": name, "metric": "refused", "value": 1.0})
            continue
        agreements = [compare_lists(a[name], b[name], g, k, kind.signed) for g in gauges]
        kept = [{m: agreement[m] for m in METRICS if m in agreement} for agreement in agreements]
        rows += [{"list": name, "metric": m, "value": v} for m, v in mean_over_plants(kept)]
    return rows
