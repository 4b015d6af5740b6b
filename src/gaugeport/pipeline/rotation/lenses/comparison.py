"""Compare what the lenses say of a component, and flag where they disagree (paper B, section 3.6).

The comparison is a function of the other lenses' rows and of the measured effects of mean ablation. It runs
no model. The flags:

- *unused*: mean ablation costs less than the threshold, and neither path patching nor ACDC keeps the
  component. This alone is not a disagreement.
- *vestigial*: an unused head whose OV norm is at least the median of the heads of its layer. High norm does
  not imply use (section 5). The median is that of a layer because layers write on different scales. Half of a
  layer's heads are at or above it, so that the flag alone is little evidence; ``unused_ov_over_used``
  measures how loud unused heads are.
- *role*: lens 1 says counter or lookup, and the feature that lens 5 sees raised most is of no kind that such
  attention makes.
- *paths_acdc*: path patching keeps the component and ACDC does not, or the other way round.
- *ablation_acdc*: ablation costs the threshold or more and ACDC drops the component, or less and ACDC keeps
  it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from gaugeport.pipeline.rotation.lenses.circuits import ACDC, PATHS
from gaugeport.pipeline.rotation.lenses.measurement import NONE, Row, check_threshold, row
from gaugeport.pipeline.rotation.lenses.regions import LENS as REGIONS
from gaugeport.pipeline.rotation.lenses.roles import LENS as ROLES
from gaugeport.pipeline.rotation.lenses.weights import LENS as WEIGHTS
from gaugeport.pipeline.rotation.toy.components import is_mlp, layer_of

LENS = "crosslens"
DISAGREEMENTS = ("vestigial", "role", "paths_acdc", "ablation_acdc")
"""The flags that count as disagreements."""

KINDS_MADE = {"counter": ("count", "validity", "position"), "lookup": ("match", "token")}
"""Head role of lens 1 -> kinds of features of lens 5: averages over the past, or what a head retrieves."""

HEAD_METRICS = ("qk_frobenius", "ov_frobenius", "ov_share", "attention_entropy")
MLP_METRICS = ("cells", "neurons_alive", "neurons_switching")
"""What is repeated here from lens 1 for heads, and from lens 4 for MLPs."""

Flags = dict[str, tuple[bool, str]]
"""Flag -> whether it is raised, and a note that says what was seen."""


def cross_rows(
    weights: Sequence[Row],
    ablation: Mapping[str, float],
    paths: Sequence[Row],
    acdc: Sequence[Row],
    roles: Sequence[Row],
    regions: Sequence[Row],
    threshold: float,
) -> list[Row]:
    """Compare what the lenses say of every component.

    Lens 2 is not among them: it describes sites and MLPs in rows of its own.

    Args:
        weights: Rows of lens 1 (:func:`.weights.weight_rows`).
        ablation: Component -> measured effect of its mean ablation, in nats. These components are compared.
        paths: Rows of :func:`.circuits.path_rows`.
        acdc: Rows of :func:`.circuits.acdc_rows`.
        roles: Rows of lens 5 (:func:`.roles.role_rows`).
        regions: Rows of lens 4 (:func:`.regions.region_rows`).
        threshold: Effect in nats from which a component is used.

    Returns:
        For every component, the rows of the other lenses under the name of this one, with the lens's name
        before the metric; the flags, 0 or 1, with the column ``note``; and ``disagreements``, how many are
        raised. For the ``model``, all ``disagreements``, and ``unused_ov_over_used`` and
        ``unused_qk_over_used``, how loud its unused heads are compared with the used ones of their layer.

    Raises:
        ValueError: If a lens does not describe a component, or the threshold is not positive.
    """
    check_threshold(threshold)
    result: list[Row] = []
    total, unused = 0, []
    for c, effect in ablation.items():
        # 1) what every lens says
        kept_by_paths, kept_by_acdc = _copy(c, paths, PATHS, "kept"), _copy(c, acdc, ACDC, "kept")
        role = _copy(c, roles, ROLES, "role")
        result += [row(LENS, c, "ablation_effect", effect), kept_by_paths, kept_by_acdc, role]
        if is_mlp(c):
            result += [_copy(c, regions, REGIONS, metric) for metric in MLP_METRICS]
        else:
            result += [_copy(c, weights, WEIGHTS, metric) for metric in ("role", *HEAD_METRICS)]
        # 2) where they disagree
        by_paths, by_acdc = kept_by_paths["value"] > 0, kept_by_acdc["value"] > 0
        flags = _use_flags(effect, threshold, by_paths, by_acdc)
        is_unused = flags["unused"][0]
        flags |= _head_flags(c, weights, role, is_unused)
        raised = [flag for flag in DISAGREEMENTS if flags[flag][0]]
        for flag in ("unused", *DISAGREEMENTS):
            is_raised, note = flags[flag]
            result.append(row(LENS, c, f"flag_{flag}", float(is_raised), note=note))
        result.append(row(LENS, c, "disagreements", len(raised), note=", ".join(raised) or NONE))
        total += len(raised)
        if is_unused:
            unused.append(c)
    # 3) the model
    result.append(row(LENS, "model", "disagreements", total))
    for circuit in ("ov", "qk"):
        ratios = _norms_over_used(weights, f"{circuit}_frobenius", list(ablation), unused)
        if ratios:
            result.append(row(LENS, "model", f"unused_{circuit}_over_used", fmean(ratios)))
    return result


def _use_flags(effect: float, threshold: float, by_paths: bool, by_acdc: bool) -> Flags:
    """Flag what ablation, path patching and ACDC say of whether a component is used."""
    kept = f"paths {'keep' if by_paths else 'drop'} it, ACDC {'keeps' if by_acdc else 'drops'} it"
    note = f"ablation costs {effect:.2g} nats; {kept}"
    costs = effect >= threshold
    return {
        "unused": (effect < threshold and not by_paths and not by_acdc, note),
        "paths_acdc": (by_paths != by_acdc, kept),
        "ablation_acdc": (costs != by_acdc, note),
    }


def _head_flags(component: str, weights: Sequence[Row], role: Row, unused: bool) -> Flags:
    """Flag what lens 1 says of a head against its use and its role of lens 5; an MLP is never flagged."""
    looks, norm, median_norm = NONE, 0.0, 0.0
    if not is_mlp(component):
        norms = {r["component"]: r["value"] for r in weights if r["metric"] == "ov_frobenius"}
        layer = layer_of(component)
        looks = _find(component, weights, "role")["role"]
        norm = norms[component]
        median_norm = median(v for other, v in norms.items() if layer_of(other) == layer)
    raises = "raises nothing"
    if role["role"] != NONE:
        raises = f"raises {role['feature']} by {role['value']:.2f}"
    return {
        "vestigial": (
            unused and not is_mlp(component) and norm >= median_norm,
            f"OV norm {norm:.2f}, median of its layer {median_norm:.2f}",
        ),
        "role": (
            looks in KINDS_MADE and role["role"] not in (*KINDS_MADE[looks], NONE),
            f"lens 1: {looks}; {raises}",
        ),
    }


def _norms_over_used(
    weights: Sequence[Row], metric: str, components: Sequence[str], unused: Sequence[str]
) -> list[float]:
    """Return each unused head's norm over the mean norm of the used heads of its layer, if it has any."""
    norms = {
        r["component"]: r["value"] for r in weights if r["metric"] == metric and r["component"] in components
    }
    ratios = []
    for head in norms.keys() & set(unused):
        layer = layer_of(head)
        used = [v for c, v in norms.items() if layer_of(c) == layer and c not in unused]
        if used:
            ratios.append(norms[head] / fmean(used))
    return ratios


def _find(component: str, rows: Sequence[Row], metric: str) -> Row:
    """Return the first row of a component and a metric."""
    for candidate in rows:
        if candidate["component"] == component and candidate["metric"] == metric:
            return candidate
    described = sorted({r["component"] for r in rows if r["metric"] == metric})
    raise ValueError(
        f"the rows of a lens have no {metric} of {component}; described: {', '.join(described) or 'none'}"
    )


def _copy(component: str, rows: Sequence[Row], lens: str, metric: str) -> Row:
    """Return a lens's row under the name of this one, with that lens's name before the metric."""
    return {**_find(component, rows, metric), "lens": LENS, "metric": f"{lens}_{metric}"}
