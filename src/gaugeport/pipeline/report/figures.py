"""Share what all figures need: a palette, a headless canvas, panels, the paper's value as a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from gaugeport.utils.files import atomic_file

# Okabe and Ito's palette, told apart under every common form of colour blindness.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#666666"
)  # fmt: skip


def panels(
    n: int, width: float = 4.2, height: float = 3.4, columns: int = 6, sharey: bool = True
) -> tuple[Figure, list[Any]]:
    """Return a figure and its first ``n`` axes.

    Args:
        n: How many panels.
        width: Inches of a panel. ``height``: likewise.
        columns: Most panels in a row.
        sharey: Whether all panels have one y axis.
    """
    across = min(n, columns)
    down = -(-n // across)
    figure, grid = plt.subplots(
        down,
        across,
        figsize=(width * across, height * down),
        sharey=sharey,
        squeeze=False,
        constrained_layout=True,
    )
    axes = list(grid.flat)
    for unused in axes[n:]:
        unused.set_visible(False)
    return figure, axes[:n]


def line_with_band(axis: Any, rows: pd.DataFrame, x: str, colour: str, label: str, style: str = "-") -> None:
    """Draw means over seeds with their 95 % interval as a band, clipped to [0, 1].

    Args:
        axis: Where to draw.
        rows: Aggregate rows.
        x: The column on the horizontal axis.
        colour: Of line and band.
        label: In the legend.
        style: Of the line.
    """
    rows = rows.sort_values(x) if pd.api.types.is_numeric_dtype(rows[x]) else rows
    axis.plot(rows[x], rows["value"], style, color=colour, label=label, marker="o", markersize=3)
    if rows["ci_low"].notna().any():
        axis.fill_between(
            rows[x], rows["ci_low"].clip(0, 1), rows["ci_high"].clip(0, 1), color=colour, alpha=0.18
        )


def legend_below(figure: Figure, axis: Any) -> None:
    """Put the legend of one axis below all of them, where it hides no line."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=7)


def paper_line(axis: Any, value: float, colour: str, text: str) -> None:
    """Draw the paper's figure as a dotted line at height ``value``, with ``text`` on it."""
    axis.axhline(value, color=colour, linestyle=":", linewidth=1)
    axis.annotate(
        text, (0.01, value), xycoords=("axes fraction", "data"), fontsize=7, color=colour, va="bottom"
    )


def save(figure: Figure, path: Path, source: str = "") -> None:
    """Write a PNG atomically, with ``source`` in its metadata; the same figure gives the same bytes."""
    with atomic_file(path) as temporary:
        metadata = {"Software": None, **({"Source": source} if source else {})}
        figure.savefig(temporary, format="png", dpi=150, metadata=metadata)
    plt.close(figure)


def source_of(path: Path) -> str | None:
    """Return the ``source`` that a figure was saved with; None where there is no readable figure."""
    try:
        with Image.open(path) as image:
            return str(image.info.get("Source", ""))
    except OSError:  # missing or damaged
        return None
