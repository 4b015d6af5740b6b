"""Hold everything that alignment reads from a pair of models, without the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from gaugeport.alignment.evidence import check_varies
from gaugeport.alignment.moments import Moments
from gaugeport.alignment.variance import explained_variance
from gaugeport.charts import Chart
from gaugeport.groups import GROUPS, Element, contains
from gaugeport.streams.activations import check_sites


@dataclass(frozen=True, eq=False)
class Evidence:
    """What two models did on the same tokens, and how their weights compare (``gaugeport.evidence``).

    ``gaugeport.align(evidence, sites=..., group=..., matcher=...)`` reads it without running a model. It
    takes 8 d² bytes per site, twice that for LayerNorm models, and 16 d² bytes more with weights.
    """

    chart_a: Chart
    chart_b: Chart
    n_blocks: int
    moments: Mapping[str, Moments]
    """Site -> moments. Each token's mean over coordinates, which LayerNorm models do not read, is left out of
    theirs."""
    moments_with_mean: Mapping[str, Moments]
    """Site -> moments with that mean, which matching reads for mean-preserving rotations only. For RMSNorm
    models they are the same."""
    weights: Tensor | None = None
    """Weight evidence as mean cosines, float64[d, d], indexed [B, A]."""
    weights_cross: Tensor | None = None
    """Weight evidence as mean cross moments, which turn with rotations, float64[d, d]."""

    @property
    def width(self) -> int:
        """The width d of the streams."""
        return self.chart_a.width

    @property
    def groups(self) -> tuple[str, str]:
        """The exact gauge groups of A's and B's charts."""
        return self.chart_a.group, self.chart_b.group

    @property
    def group(self) -> str:
        """The exact gauge group that both models have: the smaller one, if they differ."""
        return common_group(self.chart_a, self.chart_b)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites with activations; empty if there are only weights."""
        return tuple(self.moments or self.moments_with_mean)

    @property
    def tokens(self) -> int:
        """The number of tokens that were counted, massive ones included; 0 if there are only weights."""
        first = next(iter((self.moments or self.moments_with_mean).values()), None)
        return 0 if first is None else first.n + first.left_out

    @property
    def massive_tokens(self) -> dict[str, int]:
        """Site -> how many tokens were left out because their activations are massive."""
        return {site: m.left_out for site, m in (self.moments or self.moments_with_mean).items()}

    def at(self, sites: str | Sequence[str]) -> list[str]:
        """Return the names of some sites of this evidence; ``"all"`` are those it has.

        Raises:
            ValueError: for an unknown site, or one that this evidence was not collected at.
        """
        if not self.sites:
            raise ValueError("this evidence has no activations; allowed: evidence='weights'")
        if isinstance(sites, str) and sites == "all":
            return list(self.sites)
        names = check_sites(sites, self.n_blocks, self.chart_a)
        absent = [name for name in names if name not in self.sites]
        if absent:
            raise ValueError(
                f"no evidence was collected at {', '.join(absent)}; allowed: all, {', '.join(self.sites)}"
            )
        return names

    def explained(self, gauge: Element, sites: str | Sequence[str] = "all") -> dict[str, float]:
        """Return how much of B's variance a gauge of any group explains at each site.

        Args:
            gauge: the gauge from A to B. Fit it on other tokens than these, or the result flatters it.
            sites: sites of this evidence.

        Returns:
            Site -> R², as :func:`gaugeport.alignment.variance.explained_variance` defines it.

        Raises:
            TypeError: if ``gauge`` is not a gauge element.
            ValueError: for sites without evidence or variance, or a gauge of another width.
        """
        layer, names = self.chart_a.norm == "layer", self.at(sites)
        check_varies(self.moments, names)
        return {site: explained_variance(gauge, self.moments[site], layer) for site in names}

    def __str__(self) -> str:
        places = f"{self.tokens} tokens at {', '.join(self.sites)}" if self.sites else "no activations"
        weights = "" if self.weights is None else ", and weights"
        return f"evidence of two {self.chart_a.model_type} models, width {self.width}: {places}{weights}"


def common_group(chart_a: Chart, chart_b: Chart) -> str:
    """Return the exact gauge group that two models share, the smaller of theirs.

    A model with unit gains (a fresh base, or a folded one) has a larger group than one with gains in place.
    """
    return chart_a.group if contains(chart_b.group, GROUPS[chart_a.group]) else chart_b.group
