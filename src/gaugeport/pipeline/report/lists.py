"""Share what the two tables of importance lists need: names of lists, and bars by list and condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.conditions import ConditionStyle, with_conditions
from gaugeport.pipeline.report.tidy import ITSELF, main_model, means_of, select

LISTS = {
    "activation": "mean absolute activation",
    "mean_activation": "mean activation",
    "mean_gradient": "mean gradient",
    "gradient_activation": "gradient × activation",
    "integrated_gradients": "integrated gradients",
    "neuron_activation": "neurons, mean absolute activation",
}


def panels(table: pd.DataFrame, metric: str) -> tuple[Any, list[tuple[Any, pd.DataFrame]]]:
    """Return a figure with an axis per target of the main model, each with that target's means of
    ``metric``."""
    means = select(with_conditions(means_of(table)), {"metric": metric})
    means = means[means["list"].notna()]
    model = main_model(means)
    targets = [t for t in (*ITSELF, "finetuned") if t in set(means["target"])]
    figure, axes = f.panels(len(targets), width=6.5, height=3.8)
    for axis, target in zip(axes, targets, strict=True):
        axis.set(title=f"{model}, target {target}", ylim=(0, 1.04))
    return figure, [
        (a, select(means, {"model": model, "target": t})) for a, t in zip(axes, targets, strict=True)
    ]


def bars(
    axis: Any,
    means: pd.DataFrame,
    conditions: Sequence[ConditionStyle],
    chance: Callable[[str], float | None],
) -> None:
    """Draw a group of bars per list.

    Args:
        axis: Where to draw.
        means: Named means, a row per list and condition.
        conditions: A bar each; hatched along a trajectory.
        chance: List -> its value by chance, a dotted line; None draws none.
    """
    names = [name for name in LISTS if name in set(means["list"])]
    width = 0.8 / max(1, len(conditions))
    for i, condition in enumerate(conditions):
        values = select(means, {"condition": condition.name}).set_index("list")["value"]
        at = [x + (i - (len(conditions) - 1) / 2) * width for x, name in enumerate(names) if name in values]
        heights = [values[name] for name in names if name in values]
        axis.bar(
            at,
            heights,
            width,
            color=condition.colour,
            label=condition.name,
            hatch="//" if condition.style == "--" else None,
        )
    label: str | None = "chance"
    for x, name in enumerate(names):
        level = chance(name)
        if level is not None:
            axis.plot([x - 0.45, x + 0.45], [level] * 2, ":", color="black", linewidth=1, label=label)
            label = None
    axis.set_xticks(range(len(names)), [LISTS[name] for name in names], rotation=25, ha="right", fontsize=7)


def legend(figure: Any) -> None:
    """Put one legend above all panels."""
    entries = {label: h for a in figure.axes for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries, loc="outside upper center", ncols=len(entries), fontsize=7)
