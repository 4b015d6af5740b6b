"""The cross-lens table: one record per component with what every lens says, and where lenses disagree (paper B, section 3.6).

A function of the other lenses' rows and of the measured mean-ablation effects; it runs no model. Rules:

- *unused*: mean ablation costs less than the threshold, and neither path patching nor ACDC keeps it.
- *vestigial*: an unused head whose OV norm is at least the median of its own layer's heads. High norm does not imply use
  (section 5). Layers write on different scales, so that across them every head of one would be louder than every head of
  the other. Half of a layer's heads are that loud, so the flag alone is little evidence; ``unused_ov_over_used`` measures.
- *role*: lens 1 says counter or lookup, and what lens 5 sees raised most is of no kind that such attention makes.
- *paths_acdc*: path patching keeps it and ACDC does not, or the other way round.
- *ablation_acdc*: its ablation costs the threshold or more and ACDC drops it, or less and ACDC keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from gaugeport.pipeline.rotation.lenses.circuits import ACDC, PATHS
from gaugeport.pipeline.rotation.lenses.measurement import Row, row
from gaugeport.pipeline.rotation.lenses.regions import LENS as REGIONS
from gaugeport.pipeline.rotation.lenses.roles import LENS as ROLES
from gaugeport.pipeline.rotation.lenses.roles import NONE
from gaugeport.pipeline.rotation.lenses.weights import LENS as WEIGHTS
from gaugeport.pipeline.rotation.toy.components import is_mlp, layer_of

LENS = "crosslens"
RULES = ("vestigial", "role", "paths_acdc", "ablation_acdc")
"""What counts as a disagreement; *unused* alone is none."""

MAKES = {"counter": ("count", "validity", "position"), "lookup": ("match", "token")}
"""Head role of lens 1 -> the kinds of features of lens 5 that it makes: averages over the past, or something retrieved."""

HEAD_NUMBERS = ("qk_frobenius", "ov_frobenius", "ov_share", "attention_entropy")
MLP_NUMBERS = ("cells", "neurons_alive", "neurons_switching")


def cross_rows(
    weights: Sequence[Row],
    ablation: Mapping[str, float],
    paths: Sequence[Row],
    acdc: Sequence[Row],
    roles: Sequence[Row],
    regions: Sequence[Row],
    threshold: float,
) -> list[Row]:
    """Rows of every component in ``ablation`` (component -> measured effect in nats): its record, then its flags.

    The others are the rows of ``weight_rows``, ``path_rows``, ``acdc_rows``, ``role_rows`` and ``region_rows``. Lens 2 describes sites
    and MLPs, in records of its own: table b4 puts it beside. Record rows have the lens's metric and text; every flag of :data:`RULES`
    and ``unused`` is 0 or 1 with a text column ``note`` that says what was seen; ``disagreements`` counts them, per component
    and for the ``model``; ``unused_ov_over_used`` and ``unused_qk_over_used`` of the ``model`` say how loud its unused heads
    are beside the used ones of their layer. Raises ``ValueError`` for a component that a lens does not describe, or a bad
    threshold.
    """
    if not 0 < threshold < float("inf"):
        raise ValueError(f"threshold={threshold} nats; allowed: positive numbers")
    found, total, idle = [], 0, []
    norms = {r["component"]: r["value"] for r in weights if r["metric"] == "ov_frobenius"}
    for c, effect in ablation.items():
        record = [
            row(LENS, c, "ablation_effect", effect),
            _copy(c, paths, PATHS, "kept"),
            _copy(c, acdc, ACDC, "kept"),
        ]
        role = _copy(c, roles, ROLES, "role")
        record.append(role)
        if is_mlp(c):
            record += [_copy(c, regions, REGIONS, metric) for metric in MLP_NUMBERS]
            looks, norm, usual = NONE, 0.0, 0.0
        else:
            record += [_copy(c, weights, WEIGHTS, metric) for metric in ("role", *HEAD_NUMBERS)]
            looks, norm = (_pick(c, weights, "role")["role"], _pick(c, weights, "ov_frobenius")["value"])
            usual = median(v for other, v in norms.items() if layer_of(other) == layer_of(c))
        by_paths, by_acdc = record[1]["value"] > 0, record[2]["value"] > 0
        costs, unused = effect >= threshold, effect < threshold and not by_paths and not by_acdc
        raises = (
            f"raises {role['feature']} by {role['value']:.2f}" if role["role"] != NONE else "raises nothing"
        )
        kept = f"paths {'keep' if by_paths else 'drop'} it, ACDC {'keeps' if by_acdc else 'drops'} it"
        flags = {
            "unused": (unused, f"ablation costs {effect:.2g} nats; {kept}"),
            "vestigial": (
                unused and not is_mlp(c) and norm >= usual,
                f"OV norm {norm:.2f}, median of its layer {usual:.2f}",
            ),
            "role": (
                looks in MAKES and role["role"] not in (*MAKES[looks], NONE),
                f"lens 1: {looks}; {raises}",
            ),
            "paths_acdc": (by_paths != by_acdc, kept),
            "ablation_acdc": (costs != by_acdc, f"ablation costs {effect:.2g} nats; {kept}"),
        }
        disagree = [rule for rule in RULES if flags[rule][0]]
        total += len(disagree)
        idle += [c] if unused else []
        found += record + [
            row(LENS, c, f"flag_{rule}", float(on), note=note) for rule, (on, note) in flags.items()
        ]
        found.append(row(LENS, c, "disagreements", len(disagree), note=", ".join(disagree) or NONE))
    loudness = [
        row(LENS, "model", f"unused_{circuit}_over_used", fmean(ratios))
        for circuit in ("ov", "qk")
        if (ratios := _over_used(weights, f"{circuit}_frobenius", list(ablation), idle))
    ]
    return [*found, row(LENS, "model", "disagreements", total), *loudness]


def _over_used(
    weights: Sequence[Row], metric: str, components: Sequence[str], idle: Sequence[str]
) -> list[float]:
    """Of each idle head, a norm over the mean norm of the others of its layer that are not; none where all are."""
    norms = {
        r["component"]: r["value"] for r in weights if r["metric"] == metric and r["component"] in components
    }
    found = []
    for head in norms.keys() & set(idle):
        used = [v for c, v in norms.items() if layer_of(c) == layer_of(head) and c not in idle]
        found += [norms[head] / fmean(used)] if used else []
    return found


def _pick(component: str, rows: Sequence[Row], metric: str) -> Row:
    for found in rows:
        if found["component"] == component and found["metric"] == metric:
            return found
    described = sorted({r["component"] for r in rows if r["metric"] == metric})
    raise ValueError(
        f"no {metric} of {component} among the rows of a lens; described: {', '.join(described) or 'none'}"
    )


def _copy(component: str, rows: Sequence[Row], lens: str, metric: str) -> Row:
    """A lens's row under this one's name, its metric prefixed with the lens."""
    row = _pick(component, rows, metric)
    return {**row, "lens": LENS, "metric": f"{lens}_{metric}"}
