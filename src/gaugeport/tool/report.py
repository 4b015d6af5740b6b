"""Write the report of an alignment: lines for a terminal, and the same as data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaugeport.tool.answer import json_number, percent
from gaugeport.tool.conclusion import ROTATIONS, SHOWN

if TYPE_CHECKING:
    from gaugeport.tool.align import Measured

BARS = " ▁▂▃▄▅▆▇█"
BINS = 40


def report_text(
    measured: Measured, conclusion: str, notes: Sequence[str], out: Path, figure: Path | None
) -> str:
    """Return the report, at most 100 columns but for paths and notes."""
    found = measured.alignment
    a, b = measured.groups
    same = a == b
    lines = [
        f"group      {SHOWN.get(found.group, found.group)} ({found.group}): "
        + (f"the exact group of both models is {a}" if same else f"exact are {a} for A and {b} for B"),
        f"evidence   {found.evidence}{_where(measured)}",
    ]
    if found.group not in (*ROTATIONS, "affine"):
        certain = 1 - found.share_without_margin
        lines.append(
            f"certain    {percent(certain)} of the coordinates are ahead of every other candidate; median "
            f"margin {float(found.margin.median()):.2g}"
        )
        low, high, bars = _histogram(found.margin.tolist())
        lines.append(f"margins    {low:.2g} {bars} {high:.2g}")
    for name, share in measured.loops.items():
        lines.append(f"loop       {percent(share)} of the coordinates do not return ({name})")
    if measured.explained:
        lines.append("held out   share of B's stream that a gauge explains, mean over sites")
        lines += [
            f"           {SHOWN.get(g, g):<30} {value:6.3f}{'  this gauge' if g == found.group else ''}"
            for g, value in measured.explained.items()
        ]
    else:
        lines.append("held out   not measured: no text was read (--tokens)")
    if found.links:
        weakest = max(found.links, key=lambda link: link.share_without_margin)
        at = found.links.index(weakest) + 1
        lines.append(
            f"walk       {len(found.links)} links; the weakest is number {at}: "
            f"{percent(1 - weakest.share_without_margin)} certain"
        )
    lines += [f"note       {note}" for note in notes]
    lines += ["", conclusion, "", f"gauge      {out}"]
    return "\n".join([*lines, *([f"figure     {figure}"] if figure else [])])


def report_data(
    measured: Measured, conclusion: str, notes: Sequence[str], out: Path, figure: Path | None
) -> dict[str, Any]:
    """Return the report as JSON values."""
    found = measured.alignment
    return {
        "group": found.group,
        "exact_groups": list(measured.groups),
        "folded": list(measured.folded),
        "matcher": found.matcher,
        "evidence": found.evidence,
        "sites": list(found.sites),
        "tokens": {"fit": measured.tokens[0], "held_out": measured.tokens[1]},
        "massive_tokens": dict(found.massive_tokens),
        "certain": json_number(1 - found.share_without_margin),
        "median_margin": json_number(float(found.margin.median())),
        "margins": [json_number(m) for m in found.margin.tolist()],
        "loops_not_returned": dict(measured.loops),
        "explained": {g: json_number(v) for g, v in measured.explained.items()},
        "explained_by_site": {s: json_number(v) for s, v in measured.by_site.items()},
        "links": [
            {"certain": 1 - link.share_without_margin, "median_margin": float(link.margin.median())}
            for link in found.links
        ],
        "notes": list(notes),
        "conclusion": conclusion,
        "gauge": str(out),
        "figure": None if figure is None else str(figure),
    }


def _where(measured: Measured) -> str:
    found = measured.alignment
    if not found.sites:
        return ""
    places = ", ".join(found.sites) if len(found.sites) <= 3 else f"{len(found.sites)} sites, pooled"
    massive = sum(found.massive_tokens.values())
    left_out = f", {massive} massive ones left out over all sites" if massive else ""
    return f" of {measured.tokens[0]:,} tokens at {places}{left_out}"


def _histogram(values: Sequence[float]) -> tuple[float, float, str]:
    """Return the range and a line of bars, 0 always within the range."""
    low, high = min(0.0, *values), max(*values, 1e-12)
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int((value - low) / (high - low) * BINS))] += 1
    most = max(counts)
    return low, high, "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in counts)
