"""Check that two models can be compared, from facts about each that outlive the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from gaugeport.charts import Chart, chart_of

BLOCKS = "number of blocks"


def check_comparable(model_a: nn.Module, model_b: nn.Module, vocabulary: bool = True) -> tuple[Chart, Chart]:
    """Check that the residual streams of two models can be compared coordinate by coordinate.

    Args:
        model_a: model A.
        model_b: model B.
        vocabulary: also require equal vocabulary sizes.

    Returns:
        The charts of A and of B.

    Raises:
        ValueError: if family, width, number of blocks or vocabulary size differ; the message names both
            values.
    """
    chart_a, chart_b = chart_of(model_a), chart_of(model_b)
    check_same(facts_of(model_a, chart_a, vocabulary), facts_of(model_b, chart_b, vocabulary))
    return chart_a, chart_b


def facts_of(model: nn.Module, chart: Chart, vocabulary: bool) -> dict[str, Any]:
    """Return what must be the same in A and in B, by its name in error messages."""
    facts: dict[str, Any] = {
        "architecture": chart.model_type,
        "residual width": chart.width,
        BLOCKS: len(chart.blocks(model)),
    }
    if vocabulary:
        facts["vocabulary size"] = len(chart.embedding(model).weight)  # type: ignore[arg-type]
    return facts


def check_same(facts_a: Mapping[str, Any], facts_b: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for the first fact of A that is another in B."""
    for name, of_a in facts_a.items():
        if of_a != facts_b[name]:
            raise ValueError(f"A and B must have the same {name}: A has {of_a}, B has {facts_b[name]}")


def check_both_tied(
    chart_a: Chart,
    chart_b: Chart,
    names: tuple[str, str] = ("A", "B"),
    instead: str | None = "evidence='activations'",
) -> None:
    """Check that both models tie their embeddings or neither does.

    Args:
        chart_a: The chart of A.
        chart_b: The chart of B.
        names: What the message calls them.
        instead: What else is allowed where one of them is folded.

    Raises:
        ValueError: If only one does; the message names folding where folding untied it.
    """
    if chart_a.tied == chart_b.tied:
        return
    (untied, chart), (tied, _) = sorted(
        zip(names, (chart_a, chart_b), strict=True), key=lambda named: named[1].tied
    )
    if chart.folded and chart.foldable and chart_a.folded != chart_b.folded:
        allowed = [f"gaugeport.fold_gains({tied}) first", f"{untied} as it was before folding", instead]
        raise ValueError(
            f"{untied} is folded (every gain is 1, and folding unties the embeddings) and {tied} is not: "
            f"their weights differ by the gains. Allowed: {'; '.join(a for a in allowed if a)}"
        )
    raise ValueError(
        f"{' and '.join(names)} must both tie their embeddings or neither: {names[0]} {chart_a.tied}, "
        f"{names[1]} {chart_b.tied}"
    )
