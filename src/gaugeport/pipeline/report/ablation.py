"""Make tables of ablations: coordinates recovered by each route, as one setting of table a3 varies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gaugeport.pipeline.report import figures as f
from gaugeport.pipeline.report.judged import judged
from gaugeport.pipeline.report.narrow import Narrow
from gaugeport.pipeline.report.render import cell
from gaugeport.pipeline.report.tidy import KEYS, aggregate, means_of, middle_site, select, tidy
from gaugeport.pipeline.store.records import Record

ROUTES = {
    "endpoint": ("endpoint", f.RED),
    "via_base": ("via base", f.ORANGE),
    "trajectory": ("trajectory", f.BLUE),
}
LOSSES = ("loss_base", "loss_A", "loss_B")


@dataclass(frozen=True)
class Ablation:
    """Describe one ablation.

    Attributes:
        id: The table's id.
        axis: What varies, in words: a column of the csv. ``short``: the same as a heading.
        path: Its config path; empty where the evidence or the site itself varies.
        everywhere: Read it at every site, else at block L/2.
        kinds: The evidence it is read at.
        logarithmic: Draw the axis on a logarithmic scale.
    """

    id: str
    axis: str
    path: str = ""
    everywhere: bool = False
    kinds: tuple[str, ...] = ("site",)
    logarithmic: bool = False
    short: str = ""

    @property
    def title(self) -> str:
        """Return the table's title."""
        return f"{self.id} Ablation: share of coordinates recovered, by {self.axis}"

    @property
    def caption(self) -> str:
        """Return the sentences that explain the table."""
        where = "at the last step" if self.everywhere or not self.path else "at block L/2 and the last step"
        return (
            f"Signed accuracy {where}. Gap: what the trajectory recovers more than the endpoint, paired "
            "by seed."
        )

    @property
    def details(self) -> str:
        """Return the sentence that the wide form needs as well."""
        return "Losses are held-out losses of the base and of both runs."

    @property
    def summary(self) -> Narrow:
        """Return the narrow form: every route with the gap."""
        routes = {name: name for name, _ in ROUTES.values()}
        return Narrow(columns={self.axis: self.short or self.axis, **routes, "gap": "gap", "n": "n"})

    def tabulate(self, records: Sequence[Record]) -> pd.DataFrame:
        """Return every seed's :meth:`measurements`, their means, and the judged claims."""
        measured = self.measurements(records)
        return judged(self.id, measured, aggregate(measured, [c for c in (self.axis,) if c not in KEYS]))

    def measurements(self, records: Sequence[Record]) -> pd.DataFrame:
        """Return signed accuracy at the last step, held-out losses, and each seed's gap, by level of the
        axis."""
        rows = tidy(self.id, records, {self.axis: self.path} if self.path else {})
        last = rows.groupby("record")["step"].transform("max")
        accuracy = rows[(rows["metric"] == "signed_accuracy") & (rows["step"] == last)]
        accuracy = accuracy[accuracy["evidence"].isin(self.kinds)]
        if not self.everywhere:
            middle = accuracy.groupby("model")["site"].transform(_middle)
            accuracy = accuracy[accuracy["site"].isna() | (accuracy["site"] == middle)]
        losses = rows[
            rows["metric"].isin(LOSSES) & (rows["route"] == "endpoint") & (rows["matcher"] != "weights")
        ]
        measured = pd.concat([accuracy, losses], ignore_index=True)
        if not self.path:
            measured[self.axis] = measured["site"] if self.everywhere else measured["evidence"]
        return pd.concat([measured, self._gaps(measured)], ignore_index=True)

    def pivot(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a row per level: what each route recovers, the gap, and held-out losses."""
        means = means_of(table)
        lines = []
        for level in self._levels(means):
            here = select(means, {self.axis: level})
            line: dict[str, Any] = {self.axis: level}
            for route, (name, _) in ROUTES.items():
                line[name] = cell(select(here, {"metric": "signed_accuracy", "route": route}))
            line["gap"] = cell(select(here, {"metric": "gap_to_endpoint"}))
            for loss in LOSSES:
                line[loss.replace("_", " ")] = cell(select(here, {"metric": loss}))
            lines.append({**line, "n": int(here["n"].max())})
        wide = pd.DataFrame(lines)
        return wide.loc[:, (wide != "–").any()]

    def plot(self, table: pd.DataFrame) -> Any:
        """Draw signed accuracy by level, a line per route with its interval."""
        figure, (axis,) = f.panels(1, width=5.4)
        means = select(means_of(table), {"metric": "signed_accuracy"})
        order = {level: i for i, level in enumerate(self._levels(means))}
        means = means.assign(
            at=means[self.axis].map(order if not self.logarithmic else {k: k for k in order})
        )
        for route, (name, colour) in ROUTES.items():
            rows = select(means, {"route": route})
            if len(rows):
                f.line_with_band(axis, rows, "at", colour, name)
        if self.logarithmic:
            axis.set_xscale("log")
            axis.minorticks_off()
        ticks = list(order) if self.logarithmic else list(order.values())
        axis.set_xticks(ticks, [f"{level:g}" if isinstance(level, float | int) else level for level in order])
        axis.set(xlabel=self.axis, ylabel="signed accuracy (share of coordinates)", ylim=(0, 1.04))
        axis.legend(fontsize=7)
        return figure

    def _levels(self, means: pd.DataFrame) -> list[Any]:
        levels = means[self.axis].dropna()
        if self.everywhere:
            return sorted(levels.unique(), key=lambda s: -1 if s == "embed" else int(s.removeprefix("block")))
        if not self.path:
            return [kind for kind in self.kinds if kind in set(levels)]
        return sorted(levels.unique())

    def _gaps(self, measured: pd.DataFrame) -> pd.DataFrame:
        """Return, per seed and level, what the trajectory recovers more than the endpoint."""
        accuracy = measured[measured["metric"] == "signed_accuracy"]
        same = ["model", "seed", self.axis]
        endpoint = accuracy[accuracy["route"] == "endpoint"].drop_duplicates(same).set_index(same)["value"]
        ours = accuracy[accuracy["route"] == "trajectory"]
        theirs = [endpoint.get(key) for key in map(tuple, ours[same].to_numpy())]
        gaps = ours.assign(
            metric="gap_to_endpoint", value=ours["value"] - pd.Series(theirs, index=ours.index, dtype=float)
        )
        return gaps.dropna(subset=["value"])


def _middle(sites: pd.Series) -> str | None:
    named = [s for s in sites.dropna().unique() if s]
    return middle_site(named) if named else None
