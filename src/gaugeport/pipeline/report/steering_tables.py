"""Make the two steering tables, a5 and a6: theory beside measurement, wide form and figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.conditions import BY_NAME, ORDER, conditions_of, with_conditions
from gaugeport.pipeline.report.judged import claim_rows
from gaugeport.pipeline.report.render import cell, interval
from gaugeport.pipeline.report.tidy import (
    ITSELF,
    MAIN_MODELS,
    UNIFORM_SHARE,
    aggregate,
    means_of,
    select,
    share_setting,
    shares_of,
    tidy,
)
from gaugeport.pipeline.store.records import Record

SETTINGS = {"lr": "training.run.lr"}
EXTRA = ["target", "strength", "theory", *SETTINGS]
EXACT = ("B_d", "O(d)", "oracle")
"""Conditions that keep all of an effect on an identical target."""
NOTHING = "no effect to transport"
VOID = f"void ({NOTHING})"


def theory(condition: str, p: float) -> tuple[float | None, float | None]:
    """Return the retention and the reversal probability that theory gives a condition; None where it gives
    none.

    It speaks of a target that is A in other coordinates, and of an effect that is odd in the vector.

    Args:
        condition: The condition's name.
        p: The share of positive signs of the planted gauges. Matching with the signs dropped keeps 2p − 1,
            and it reverses every second effect if p = ½. Raw matching finds the share p of coordinates, each
            with its sign. Moved by the identity, a vector is at wrong places, where only p = ½ says what
            signs it meets.
    """
    if condition in EXACT:
        return 1.0, 0.0
    if condition == "S_d raw":
        return p, 0.0 if p > 0 else None
    reversal = {0.0: 1.0, 0.5: 0.5, 1.0: 0.0}.get(p)
    if condition == "S_d, signs dropped":
        return 2 * p - 1, reversal
    return (0.0, 0.5) if condition == "identity" and p == UNIFORM_SHARE else (None, None)


def tabulate(
    table: str, records: Sequence[Record], paper: Mapping[tuple[str, str], Mapping[str, float]], odd: str = ""
) -> pd.DataFrame:
    """Return every measurement, the means over seeds with theory and the paper's figures, and the judged
    claims.

    A seed without an effect to transport has no retention and no reversal, so it is in no mean and no claim;
    a claim whose seeds are all of this kind is void.

    Args:
        table: The table's id.
        records: Its records.
        paper: (metric, target) -> the paper's figures by condition.
        odd: How the metrics begin that are of the part odd in the vector, which theory is about.
    """
    settings = SETTINGS | share_setting(records)
    rows = tidy(table, records, settings, EXTRA)
    means = with_conditions(aggregate(rows, [*EXTRA, *(settings.keys() - SETTINGS.keys())]))
    for i, metric in enumerate(("retention", "reversal_probability")):
        here = (means["metric"] == odd + metric) & means["target"].isin(ITSELF)
        expected = [theory(c, p)[i] for c, p in zip(means["condition"], shares_of(means), strict=True)]
        means.loc[here, "theory"] = pd.Series(expected, index=means.index, dtype=float)[here]
    ours = means["model"].isin(MAIN_MODELS) & (means["setting"] == "default")
    for (metric, target), figures in paper.items():
        same = ITSELF if target in ITSELF else (target,)
        here = ours & (means["metric"] == metric) & means["target"].isin(same)
        means.loc[here, "paper"] = means.loc[here, "condition"].map(figures).astype(float)
    claims = claim_rows(table, rows)
    keys = ["model", "setting", "target", "route"]
    tried, kept = (
        set(rows.loc[rows["metric"] == metric, keys].itertuples(index=False, name=None))
        for metric in ("no_effect_to_transport", "retention")
    )
    here = claims[keys].apply(tuple, axis=1).isin(tried - kept)
    claims.loc[(claims["n"] == 0) & here, "verdict"] = VOID
    return pd.concat([rows, means.drop(columns="condition"), claims], ignore_index=True)


def pivot(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return a row per model, target and condition.

    n counts the seeds of the first column, those with an effect to transport; where none had one, the cell
    says so. Where another column has more or fewer, its cells say how many.

    Args:
        table: The whole table.
        columns: Metric -> heading; ``theory:`` and ``paper:`` before a metric select those columns of it. A
            metric that no record has gets no column.
    """
    measured = set(table["metric"])
    columns = {
        k: v for k, v in columns.items() if k.rpartition(":")[2] in measured or k == next(iter(columns))
    }
    lines, first = [], next(iter(columns))
    by = ["model", "setting", "target", "site", "condition"]
    for key, part in with_conditions(means_of(table)).groupby(by, sort=False, dropna=False):
        by_metric: Any = part.drop_duplicates("metric").set_index("metric")
        line: dict[str, Any] = dict(zip(by, key, strict=True))
        silent = by_metric.at["no_effect_to_transport", "value"] == 1
        n = by_metric.at[first, "n"] if first in by_metric.index else None
        for name, title in columns.items():
            kind, _, metric = name.rpartition(":")
            if silent and name == first:
                line[title] = NOTHING
            elif kind and metric in by_metric.index:
                line[title] = interval(by_metric.at[metric, kind], float("nan"), float("nan"))
            else:
                line[title] = cell(select(part, {"metric": metric}), n=n)
        lines.append({**line, "n": int(n or 0)})
    wide = pd.DataFrame(lines)
    wide = wide.assign(order=wide["condition"].map(ORDER), same=~wide["target"].isin(ITSELF))
    wide = wide.sort_values(["model", "setting", "same", "order"], kind="stable")
    return wide.drop(columns=["order", "same"]).reset_index(drop=True)


def plot(
    table: pd.DataFrame, metric: str, label: str, paper: Mapping[tuple[str, str], Mapping[str, float]]
) -> Any:
    """Draw a metric by condition above and the sweep of strengths below, a column per model, setting and
    target.

    Bars are the spread over plants, hollow points the odd part, ticks theory.

    Args:
        table: The whole table.
        metric: What the upper panels show. ``label``: its name on the axis.
        paper: (metric, target) -> the paper's figures by condition, drawn as lines.
    """
    means = with_conditions(means_of(table))
    keys = ["model", "setting", "target"]
    order = dict.fromkeys(("default", *MAIN_MODELS, *ITSELF), 0)
    pairs = (
        means[keys].drop_duplicates().sort_values(keys, key=lambda c: c.map(lambda v: (order.get(v, 1), v)))
    )
    figure, grid = f.plt.subplots(
        2, len(pairs), figsize=(4.4 * len(pairs), 7), sharey="row", squeeze=False, constrained_layout=True
    )
    for (above, below), (model, setting, target) in zip(grid.T, pairs.to_numpy(), strict=True):
        here = select(means, {"model": model, "setting": setting, "target": target})
        conditions = conditions_of(here)
        for x, condition in enumerate(conditions):
            _point(above, x, select(here, {"condition": condition.name}), metric, condition.colour)
            sweep = select(here, {"condition": condition.name, "metric": "shift"}).sort_values("strength")
            look = {"color": condition.colour, "linestyle": condition.style, "label": condition.name}
            below.plot(sweep["strength"], sweep["value"], marker="o", markersize=3, **look)
        for name, value in paper.get((metric, target), {}).items():
            f.paper_line(above, value, BY_NAME[name].colour, f"paper, {name}")
        if not (here["metric"] == metric).any():
            above.text(0.5, 0.5, NOTHING, transform=above.transAxes, ha="center", color=f.GREY)
        above.set_xticks(
            range(len(conditions)),
            [condition.name for condition in conditions],
            rotation=25,
            ha="right",
            fontsize=7,
        )
        above.set_xlim(-0.6, len(conditions) - 0.4)
        above.set_title(
            f"{model}, target {target}" + (f", {setting}" if setting != "default" else ""), fontsize=9
        )
        below.axhline(0, color=f.GREY, linewidth=0.5)
        below.axvline(0, color=f.GREY, linewidth=0.5)
        below.set_xlabel("strength (mean lengths of A's stream)")
    grid[0][0].set_ylabel(textwrap.fill(label, 36))
    grid[1][0].set_ylabel("change of the log-odds (nats)")
    for axis in grid[1]:
        axis.legend(fontsize=6.5)
    return figure


def _point(axis: Any, x: int, rows: pd.DataFrame, metric: str, colour: str) -> None:
    by_metric: Any = rows.drop_duplicates("metric").set_index("metric")
    if metric not in by_metric.index:
        return
    value = by_metric.at[metric, "value"]
    spread = by_metric["value"].get(f"{metric}_plants_sd", 0.0)
    axis.errorbar([x], [value], [spread], fmt="o", color=colour, markersize=5, capsize=3)
    odd = f"odd_{metric}"
    if odd in by_metric.index:
        axis.plot(
            [x + 0.2], [by_metric.at[odd, "value"]], "o", color=colour, markerfacecolor="white", markersize=5
        )
    theory = by_metric.at[odd if odd in by_metric.index else metric, "theory"]
    if pd.notna(theory):
        axis.plot([x - 0.3, x + 0.3], [theory] * 2, color="black", linewidth=1.2)
