"""Draw the report of an alignment: margins, what groups explain on held-out text, and the sites."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gaugeport.tool.answer import percent
from gaugeport.tool.conclusion import SHOWN
from gaugeport.utils.files import atomic_file

if TYPE_CHECKING:
    from gaugeport.tool.align import Measured

BLUE, GREY = "#0072B2", "#999999"  # of Okabe and Ito's palette


def draw(measured: Measured, path: Path) -> None:
    """Write the figure of an alignment as a PNG.

    Args:
        measured: The alignment with what was measured of it.
        path: The file to write.
    """
    found, panels = measured.alignment, 3 if measured.explained else 1
    figure, axes = plt.subplots(
        1, panels, figsize=(4.2 * panels, 3.4), constrained_layout=True, squeeze=False
    )
    margins, *others = axes[0]
    low, high = float(found.margin.min()), float(found.margin.max())
    margins.hist(found.margin.numpy(), bins=50, range=(min(low, 0.0), max(high, 1e-12)), color=BLUE)
    margins.axvline(0, color=GREY, linewidth=1)
    margins.set(
        title=f"{percent(1 - found.share_without_margin)} ahead of every other candidate",
        xlabel="margin over the best other candidate" if found.group != "affine" else "gap in the row of Q",
        ylabel="coordinates",
    )
    if others:
        groups, sites = others
        names = [SHOWN.get(g, g) for g in measured.explained]
        colours = [BLUE if g == found.group else GREY for g in measured.explained]
        bars = groups.barh(names, list(measured.explained.values()), color=colours)
        groups.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
        groups.invert_yaxis()
        groups.set(title="by group, held-out text", xlabel="share of B's stream explained (R²)")
        groups.set_xlim(min(0.0, *measured.explained.values()), 1.15)
        sites.plot(list(measured.by_site.values()), marker=".", color=BLUE)
        step = max(1, len(measured.by_site) // 8)
        sites.set_xticks(
            range(0, len(measured.by_site), step), list(measured.by_site)[::step], rotation=45, fontsize=7
        )
        sites.set(title="by site, held-out text", ylabel="share of B's stream explained (R²)")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    plt.close(figure)
