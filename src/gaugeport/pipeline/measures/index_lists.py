"""Lists of A moved to B by a recovered gauge, against the lists computed on B itself (table a10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gaugeport.groups import Element, SignedPermutation
from gaugeport.pipeline.measures.conditions import mean_over_plants
from gaugeport.pipeline.measures.importance import LISTS, Scores, compare_lists

Row = dict[str, Any]

METRICS = ("precision", "rank_correlation", "sign_agreement")


def moved_list_rows(a: Scores, b: Scores, residuals: Sequence[Element], k: int) -> list[Row]:
    """Rows ``{list, metric, value}`` of one arm, means over its plants with their ``…_plants_sd``.

    ``residuals`` are what the arm's gauge does beyond the true one, one per plant, in coordinates that A and B share.
    ``precision`` |moved ∩ native| / k; ``rank_correlation`` of all scores; ``sign_agreement`` of signed lists. Under
    the identity (the oracle) what is missing to 1 is drift. Neuron lists are invariant under a
    residual gauge and move as they are. A rotation moves no index: for coordinate lists the one metric is then
    ``refused`` = 1.
    """
    rows: list[Row] = []
    for name, kind in LISTS.items():
        gauges = residuals if kind.space == "coordinate" else [SignedPermutation.identity(len(a[name]))]
        if not all(isinstance(g, SignedPermutation) for g in gauges):
            rows.append({"list": name, "metric": "refused", "value": 1.0})
            continue
        found = [compare_lists(a[name], b[name], g, k, kind.signed) for g in gauges]
        kept = [{m: f[m] for m in METRICS if m in f} for f in found]
        rows += [{"list": name, "metric": m, "value": v} for m, v in mean_over_plants(kept)]
    return rows
