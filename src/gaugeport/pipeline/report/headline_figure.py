"""Draw the headline: a panel a claim, our figures filled, the paper's hollow beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.headline import Result

COLUMNS = 4
"""Panels in a row."""

SIDES = (f.BLUE, f.ORANGE)
"""Colours of the left and the right side of a claim."""


def headline_figure(results: Sequence[Result]) -> Figure:
    """Return the figure of some claims, each with its own axis and unit.

    Args:
        results: The claims that have a value.
    """
    shown = [r for r in results if r.values]
    figure, axes = f.panels(len(shown), width=3.1, height=2.7, columns=COLUMNS, sharey=False)
    for axis, result in zip(axes, shown, strict=True):
        _panel(axis, result)
    handles = [
        f.plt.Rectangle((0, 0), 1, 1, facecolor=f.GREY, label="ours"),
        f.plt.Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=f.GREY, hatch="///", label="paper"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _panel(axis: Any, result: Result) -> None:
    entry = result.entry
    for x, (value, paper, colour) in enumerate(zip(result.values, entry.paper, SIDES, strict=False)):
        bars = [axis.bar(x - (0.2 if paper is not None else 0), value, 0.36, color=colour)]
        if paper is not None:
            look = {"color": "white", "edgecolor": colour, "hatch": "///"}
            bars.append(axis.bar(x + 0.2, paper, 0.36, **look))
        for bar in bars:
            axis.bar_label(bar, fmt="%.2g", fontsize=7, padding=1)
    axis.axhline(0, color=f.GREY, linewidth=0.5)
    axis.margins(y=0.18)
    axis.set_xlim(-0.7, 1.7 if len(result.values) > 1 else 0.7)
    axis.set_xticks(range(len(result.values)), entry.sides, fontsize=7)
    axis.tick_params(axis="y", labelsize=7)
    axis.set_ylabel(textwrap.fill(entry.unit, 30), fontsize=7)
    axis.set_title(f"{entry.claim.table} {entry.short}\n{entry.group.id}, n = {result.n}", fontsize=7)
