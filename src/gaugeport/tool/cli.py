"""Declare the commands for people's own checkpoints: what each takes, and how its answer is printed.

Exit codes are those of :class:`gaugeport.tool.answer.Exit`. This module imports nothing heavy, so that
``--help`` is quick; a command imports what it needs when it runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gaugeport.tool.answer import Answer
from gaugeport.tool.command_group import CommandGroup

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed midway (the same command does the rest), 2 input refused and nothing "
    "written, 3 done but doubtful (the answer says why)."
)

app = typer.Typer(cls=CommandGroup, add_completion=False, no_args_is_help=True)
chart = typer.Typer(
    cls=CommandGroup, no_args_is_help=True, help="Charts: where the residual stream lives in an architecture."
)
app.add_typer(chart, name="chart")


def _expanded(value: Any) -> Any:
    """Replace ``~`` in a path, or in a pair of them, as shells do, which leave ``--out=~/x`` alone."""
    if isinstance(value, tuple):
        return tuple(map(_expanded, value))
    return type(value)(os.path.expanduser(value)) if isinstance(value, str | Path) else value


def _path(**options: Any) -> Any:
    """Return the option of a path."""
    return typer.Option(callback=_expanded, **options)


Model = Annotated[str, typer.Argument(help="A Hugging Face model folder, a .gguf file, or a hub id.")]
Text = Annotated[
    Path | None, _path(help="A .txt, .jsonl, .csv or .parquet file; Python's reference when omitted.")
]
Field = Annotated[str, typer.Option(help="Of the file: the field that holds the text.")]
Tokens = Annotated[int, typer.Option(help="How many tokens to read, at most.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what lies at --out.")]
Seed = Annotated[int, typer.Option(help="Seed of what is random.")]


@app.command(epilog=EXIT_CODES)
def align(
    a: Model,
    b: Model,
    out: Annotated[Path, _path(help="The gauge file to write, .safetensors.")],
    text: Text = None,
    field: Field = "text",
    tokens: Tokens = 16_384,
    along: Annotated[
        tuple[Path, Path] | None, _path(help="Folders of A's and B's runs: walk their checkpoints.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="The model that both runs started from.")] = None,
    evidence: Annotated[str, typer.Option(help="activations, weights or both.")] = "activations",
    group: Annotated[str, typer.Option(help="auto, or a group such as signed_permutation.")] = "auto",
    sites: Annotated[str, typer.Option(help="all, or some sites: block9,block10.")] = "all",
    abstain: Annotated[
        float | None, typer.Option(help="Count coordinates with a smaller margin as not placed.")
    ] = None,
    figure: Annotated[Path | None, _path(help="The PNG to write; beside --out when omitted.")] = None,
    device_map: Annotated[
        str | None,
        typer.Option(
            help="Where the models run: cuda, or auto for GPUs, memory, disk; the CPU when omitted."
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Recover the gauge from A's coordinates to B's, and say how far it can be trusted."""
    from gaugeport.tool.align import Request, align_models

    request = Request(
        a, b, out, figure or (out.with_suffix(".png") if out.name else out), evidence, group,
        sites if sites == "all" else sites.split(","), text, field, tokens, along, base, abstain, force,
        device_map,
    )  # fmt: skip
    _print(align_models(request), as_json)


@app.command(epilog=EXIT_CODES)
def transport(
    kind: Annotated[
        str, typer.Argument(help="model, sae, direction, indices, lora, optimizer or checkpoint.")
    ],
    source: Annotated[str, typer.Argument(help="The file or folder to move.", callback=_expanded)],
    gauge: Annotated[Path, _path(help="The gauge file, as `align` writes it.")],
    out: Annotated[Path, _path(help="What to write.")],
    model: Annotated[str | None, typer.Option(help="For lora: the model it was trained on.")] = None,
    axis: Annotated[int | None, typer.Option(help="For direction: the axis of the coordinates.")] = None,
    workers: Annotated[int | None, typer.Option(help="For model: threads; all cores when omitted.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Move what is written in A's coordinates to B's."""
    from gaugeport.tool.transport import Request
    from gaugeport.tool.transport import transport as move

    _print(move(kind, Request(source, gauge, out, model, axis, workers, force)), as_json)


@app.command(epilog=EXIT_CODES)
def merge(
    a: Model,
    b: Model,
    out: Annotated[Path, _path(help="A new folder.")],
    alpha: Annotated[float, typer.Option(help="The weight of B.")] = 0.5,
    gauge: Annotated[Path | None, _path(help="The gauge from A to B; from the weights when omitted.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Average two models in the coordinates of the first."""
    from gaugeport.tool.merge import merge as merge_models

    _print(merge_models(a, b, alpha, out, gauge, force), as_json)


@app.command(epilog=EXIT_CODES)
def audit(
    model: Model,
    indices: Annotated[Path | None, _path(help="A list of coordinates of yours.")] = None,
    direction: Annotated[Path | None, _path(help="A direction of yours.")] = None,
    sae: Annotated[
        Path | None,
        _path(help="A folder with an SAE of yours."),
    ] = None,
    site: Annotated[str | None, typer.Option(help="Where they belong; the middle block.")] = None,
    draws: Annotated[int, typer.Option(help="How many random gauges.")] = 3,
    tokens: Tokens = 4096,
    text: Text = None,
    field: Field = "text",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure what an index list, a direction and an SAE are worth on copies in random coordinates."""
    from gaugeport.tool.audit import Request
    from gaugeport.tool.audit import audit as audit_model

    request = Request(model, indices, direction, sae, site, draws, tokens, text, field, seed)
    _print(audit_model(request), as_json)


@app.command(epilog=EXIT_CODES)
def certify(
    model: Model,
    seed: Seed = 0,
    fold: Annotated[bool, typer.Option(help="Fold the gains into the readers first.")] = False,
    as_json: Json = False,
) -> None:
    """Measure which group leaves a model's function alone, inside and outside; report degenerate gains."""
    from gaugeport.tool.certify import certify_model

    _print(certify_model(model, seed, fold), as_json)


@chart.command(epilog=EXIT_CODES)
def draft(model: Model, seed: Seed = 0, as_json: Json = False) -> None:
    """Propose a chart for an architecture that has none: a file of rules, and what is not decided."""
    from gaugeport.tool.draft import draft_chart

    _print(draft_chart(model, seed), as_json)


def error_object(message: str) -> str:
    """Return what is printed with ``--json`` where input is refused."""
    return json.dumps({"error": message})


def _print(answer: Answer, as_json: bool) -> None:
    """Print an answer, and exit with its code."""
    data: Mapping[str, Any] = {**answer.data, "exit": int(answer.exit)}
    print(json.dumps(data, allow_nan=False) if as_json else answer.text)
    if answer.exit:
        raise typer.Exit(int(answer.exit))
