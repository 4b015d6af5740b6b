"""``gaugeport chart draft``: propose a chart for an architecture that has none."""

from __future__ import annotations

from dataclasses import fields

from gaugeport.charts.chart import FAMILIES
from gaugeport.charts.draft import draft
from gaugeport.charts.rules import Family, Rule
from gaugeport.tool.answer import Answer, Exit
from gaugeport.tool.opening import opener
from gaugeport.utils.progress import progress_bar


def draft_chart(name: str, seed: int = 0) -> Answer:
    """Draft a family from a model, and print it as the file that ``charts/`` would hold.

    Args:
        name: A folder, hub id or ``.gguf`` file.
        seed: Seed of the random gauges and tokens.
    """
    model = opener(name)()
    with progress_bar() as bar:
        found = draft(model, seed, bar)
    known = next((f.name for f in FAMILIES if found.family.name in f.model_types), None)
    notes = [*found.notes, *([f"charts/{known}.py declares this architecture already"] if known else [])]
    verdict = "exact" if found.exact else "NOT exact: the draft is wrong somewhere"
    comment = [
        f"# logits change by {found.inside:.2g} of their std under random elements: {verdict} "
        f"(yardstick {found.yardstick:.2g})",
        *(f"# {note}" for note in notes),
    ]
    source = family_source(found.family)
    data = {
        "family": found.family.name, "exact": found.exact, "inside": found.inside,
        "yardstick": found.yardstick, "notes": notes, "source": source,
    }  # fmt: skip
    doubtful = not found.exact or bool(found.notes)
    return Answer("\n".join([source, *comment]), data, Exit.DOUBTFUL if doubtful else Exit.DONE)


def family_source(family: Family) -> str:
    """Return the Python file that declares a family."""
    lines = [
        f'"""Declare {family.name}: drafted by `gaugeport chart draft`; read it before you rely on it."""',
        "",
        "from gaugeport.charts.rules import Family, Rule",
        "",
        "FAMILY = Family(",
    ]
    for field in fields(family):
        value = getattr(family, field.name)
        if field.name == "rules":
            lines += ["    rules=(", *(f"        {_rule_source(rule)}," for rule in value), "    ),"]
        elif value != field.default:
            lines.append(f"    {field.name}={value!r},")
    return "\n".join([*lines, ")"])


def _rule_source(rule: Rule) -> str:
    norm = f", norm={rule.norm!r}" if rule.norm else ""
    return f"Rule({rule.pattern!r}, {rule.axes!r}, {rule.role!r}{norm})"
