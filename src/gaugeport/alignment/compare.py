"""Ask how much of B's stream a gauge explains on held-out text, and which group explains most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from gaugeport.alignment.collect import Model, collect
from gaugeport.alignment.evidence import check_varies
from gaugeport.alignment.fit import AFFINE, fit, rotation_group
from gaugeport.alignment.matchers import default_matchers
from gaugeport.alignment.pair_evidence import Evidence
from gaugeport.alignment.variance import explained_variance, with_scale_and_shift
from gaugeport.groups import Element, LinearGauge, Permutation
from gaugeport.groups.algebra import check_is_element
from gaugeport.streams.massive import LEAVE_OUT
from gaugeport.utils.progress import Progress


def explained(
    model_a: Model,
    model_b: Model,
    gauge: Element,
    held_out: Iterable[dict[str, Tensor]],
    *,
    sites: str | Sequence[str] = "all",
    skip_first: int = 1,
    massive: str = LEAVE_OUT,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Return how much of B's variance a gauge explains at each site, on text that it was not fitted on.

    R² is ``1 - Σ‖y - ŷ‖² / Σ‖y - mean y‖²`` over the tokens of ``held_out``, with y the stream of B and x
    that of A. A linear gauge predicts up to the means, ``ŷ = mean y + g·(x - mean x)``, as centred Procrustes
    does; an affine gauge as it is, ``ŷ = g·x``. Of LayerNorm models, both streams are taken without each
    token's mean over coordinates, which no reader sees.

    Args:
        model_a, model_b: the models, or functions that load them, as in ``gaugeport.evidence``.
        gauge: the gauge from A to B, of any group.
        held_out: batches as in ``gaugeport.align``.
        sites, skip_first, massive, progress: as in ``gaugeport.evidence``.

    Returns:
        Site -> R², at most 1. It is negative where the gauge predicts worse than B's mean.

    Raises:
        TypeError: if ``gauge`` is not a gauge element.
        ValueError: if its width is not that of the models, and as ``gaugeport.evidence``.
    """
    check_is_element(gauge)
    ev = collect(
        model_a,
        model_b,
        held_out,
        sites,
        mean_free=[True],
        skip_first=skip_first,
        massive=massive,
        progress=progress,
    )
    return ev.explained(gauge)


def compare_groups(
    fit_on: Evidence, held_out: Evidence, sites: str | Sequence[str] = "all"
) -> dict[str, float]:
    """Fit a gauge of every group on some text, and return how much each explains on other text.

    Every gauge is one element for all sites, fitted by its group's default matcher on the activations of
    ``fit_on``; only of the affine gauge, scale and shift belong to each site (the rotation does not).

    Args:
        fit_on: evidence to fit on, with activations.
        held_out: evidence of the same models on other text, at the same sites.
        sites: sites of both.

    Returns:
        Group -> R² on ``held_out``, the mean over sites (each counts alike, as it does in the fit): of
        ``identity``, ``permutation``, ``global_sign_permutation`` (LayerNorm models only),
        ``signed_permutation``, ``orthogonal`` (for LayerNorm models ``mean_preserving_orthogonal``) and
        ``affine``. R² is that of :func:`explained`.

    Raises:
        ValueError: if the evidences are not of the same kind of model, lack activations at a site, or a
            stream does not vary there.
    """
    chart, other = fit_on.chart_a, held_out.chart_a
    if (chart.model_type, chart.width) != (other.model_type, other.width):
        raise ValueError(
            f"expected evidence of the same models: fit_on has {chart.model_type} of width {chart.width}, "
            f"held_out {other.model_type} of width {other.width}"
        )
    names = fit_on.at(sites)
    check_varies(fit_on.moments, names)
    check_varies(held_out.moments, held_out.at(names))
    rotation = rotation_group(chart)
    global_sign = ["global_sign_permutation"] if chart.norm == "layer" else []
    gauges: dict[str, Element] = {"identity": Permutation.identity(chart.width)}
    for group in ("permutation", *global_sign, "signed_permutation", rotation):
        gauges[group] = fit(fit_on, group, default_matchers()[group], "activations", names, None).gauge
    by_site: dict[str, Mapping[str, Element]] = {k: dict.fromkeys(names, g) for k, g in gauges.items()}
    linear = gauges[rotation]
    assert isinstance(linear, LinearGauge)
    by_site[AFFINE] = {site: with_scale_and_shift(linear, fit_on.moments[site]) for site in names}
    layer = chart.norm == "layer"
    return {
        group: sum(explained_variance(g, held_out.moments[site], layer) for site, g in of.items()) / len(of)
        for group, of in by_site.items()
    }
