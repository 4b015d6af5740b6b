"""``gaugeport merge``: average two models in the coordinates of the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gaugeport as gp
from gaugeport.alignment.doubt import WARN_FROM_SHARE
from gaugeport.groups import Element
from gaugeport.models.loading import check_model
from gaugeport.tool.answer import Answer, Exit, percent
from gaugeport.tool.opening import bars_on_terminals_only, check_place
from gaugeport.transport.merge import check_mergeable
from gaugeport.utils.files import atomic_folder, check_new
from gaugeport.utils.progress import Progress, progress_bar


def merge(a: str, b: str, alpha: float, out: Path, gauge: Path | None = None, force: bool = False) -> Answer:
    """Write ``(1 − α)·A + α·B``, with B moved to A's coordinates.

    Args:
        a: The first model.
        b: The second model.
        alpha: The weight of B, from 0 to 1.
        out: A new folder.
        gauge: A gauge file from A to B (``gaugeport align A B``), for models whose neurons and heads
            correspond; None to recover gauge, neurons and heads from the weights of two models of one base.
        force: Replace what lies at ``out``.

    Raises:
        ValueError: ``alpha`` is out of range, the models cannot be merged, or ``out`` is in one of them.
        FileExistsError: Something lies at ``out`` already.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}; allowed: 0 to 1")
    check_place(out, a, b, gauge)
    check_new(out, force)
    check_model(a, tokenizer=True)
    check_model(b)
    bars_on_terminals_only()
    model_a, model_b = gp.load_model(a), gp.load_model(b)  # as they are stored: nothing runs
    check_mergeable(model_a, model_b)
    with progress_bar() as bar:
        if gauge is None:
            b_to_a, model_b, certain = _recovered(model_a, model_b, bar)
            origin = f"recovered from the weights, {percent(certain)} of the coordinates certain"
        else:
            b_to_a, origin, certain = gp.load_gauge(gauge).inverse(), str(gauge), 1.0
        pair, weights = [model_a, model_b], (1 - alpha, alpha)
        merged: Any = gp.merge(pair, [None, b_to_a], weights, progress=bar).model
    with atomic_folder(out, force) as folder:
        merged.save_pretrained(folder)
        gp.load_tokenizer(a).save_pretrained(folder)
    data = {"a": a, "b": b, "alpha": alpha, "out": str(out), "group": b_to_a.group, "gauge": origin}
    lines = [
        f"merged   {1 - alpha:g} · {a} + {alpha:g} · {b}, in the coordinates of the first",
        f"gauge    {b_to_a.group}, {origin}",
        f"out      {out}",
    ]
    doubtful = 1 - certain >= WARN_FROM_SHARE
    if doubtful:
        lines.append("not certain: the models may share no base, and then no average of them is of use")
    return Answer("\n".join(lines), data, Exit.DOUBTFUL if doubtful else Exit.DONE)


def _recovered(model_a: Any, model_b: Any, bar: Progress | None) -> tuple[Element, Any, float]:
    """Return the gauge from B to A, B with neurons and heads in A's order, and the share that is certain."""
    found = gp.align_weights(model_b, model_a, progress=bar)
    ordered = found.neurons.apply(model_b)
    if found.heads is not None:
        ordered = found.heads.apply(ordered, inplace=True)
    return found.gauge, ordered, float((found.margin > 0).double().mean())
