"""``gaugeport transport``: move a model, SAE, direction, index list, adapter or training state by a gauge."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gaugeport as gp
from gaugeport.groups import Element
from gaugeport.models.loading import check_model
from gaugeport.tool.answer import Answer
from gaugeport.tool.opening import bars_on_terminals_only, check_place, safetensors_folder
from gaugeport.utils.files import atomic_folder, check_new
from gaugeport.utils.progress import progress_bar


@dataclass(frozen=True)
class Request:
    """What to move.

    Attributes:
        source: A file or folder.
        gauge: The gauge file.
        out: What to write. It must be new.
        model: The model that an adapter was trained on; other kinds do not need one.
        axis: The axis of a direction's tensors that holds the coordinates, where several could.
        workers: Threads that a large model moves on; None for all cores.
        force: Replace what lies at ``out``.
    """

    source: str
    gauge: Path
    out: Path
    model: str | None = None
    axis: int | None = None
    workers: int | None = None
    force: bool = False


Moved = Mapping[str, Any]
"""What was moved, as JSON values."""


def transport(kind: str, request: Request) -> Answer:
    """Move one object.

    Raises:
        ValueError: The kind is unknown, the source is refused, the gauge does not fit it, or ``out`` lies in
            what is read.
        FileNotFoundError: The source or the gauge does not exist.
        FileExistsError: Something lies at ``out`` already.
    """
    if kind not in KINDS:
        raise ValueError(f"cannot transport {kind!r}; allowed: {', '.join(KINDS)}")
    check_place(request.out, request.source, request.gauge, request.model)
    gauge = gp.load_gauge(request.gauge)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved = KINDS[kind](request, gauge)
    notes = list(dict.fromkeys(str(w.message) for w in caught))
    data = {"kind": kind, "source": request.source, "out": str(request.out), "group": gauge.group, **moved}
    lines = [f"{kind} moved by an element of {gauge.group}, d = {gauge.size}", f"out      {request.out}"]
    lines += [f"{name.replace('_', ' '):<8} {_shown(value)}" for name, value in moved.items() if value != {}]
    return Answer("\n".join([*lines, *(f"note     {note}" for note in notes)]), {**data, "notes": notes})


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} ({why})" for name, why in value.items())
    return f"{value:,}" if isinstance(value, int) else ", ".join(value)


def _model(request: Request, g: Element) -> Moved:
    if safetensors_folder(request.source) is not None:
        with progress_bar() as bar:
            report = gp.transport_checkpoint(
                request.source,
                g,
                request.out,
                workers=request.workers,
                force=request.force,
                progress=bar,
            )
        written = {"written": len(report.written), "kept": len(report.kept), "left_out": report.left_out}
        return {"tensors": report.tensors, "bytes": report.nbytes, **written}
    check_new(request.out, request.force)
    check_model(request.source, tokenizer=True)
    bars_on_terminals_only()
    model = gp.load_model(request.source)
    with atomic_folder(request.out, request.force) as folder:
        gp.transport_model(model, g, inplace=True).save_pretrained(folder)
        gp.load_tokenizer(request.source).save_pretrained(folder)
    return {"tensors": len(list(model.parameters()))}


def _sae(request: Request, g: Element) -> Moved:
    return {"moved": gp.transport_sae_file(request.source, g, request.out, force=request.force)["moved"]}


def _direction(request: Request, g: Element) -> Moved:
    moved = gp.transport_direction_file(
        request.source, g, request.out, axis=request.axis, force=request.force
    )
    return {"moved": moved}


def _indices(request: Request, g: Element) -> Moved:
    moved = gp.transport_indices_file(request.source, g, request.out, force=request.force)
    lists = moved.values() if "index" not in moved else [moved]
    return {"moved": sum(len(m["index"]) for m in lists), "dropped": sum(len(m["dropped"]) for m in lists)}


def _lora(request: Request, g: Element) -> Moved:
    if request.model is None:
        raise ValueError("a LoRA adapter moves with its base model's chart: pass --model DIR, the base of it")
    check_new(request.out, request.force)
    streamed = safetensors_folder(request.model) is not None  # the chart alone is read, not the weights
    base = gp.chart_of_folder(request.model) if streamed else gp.load_model(request.model)
    moved = gp.transport_lora(request.source, g, base, out=request.out, force=request.force)
    return {"tensors": len(moved)}


def _checkpoint(request: Request, g: Element) -> Moved:
    check_new(request.out, request.force)
    with progress_bar() as bar:
        state = gp.transport_optimizer(request.source, g, out=request.out, force=request.force, progress=bar)
    return {"states": len(state["state"])}


KINDS: dict[str, Callable[[Request, Element], Moved]] = {
    "model": _model,
    "sae": _sae,
    "direction": _direction,
    "indices": _indices,
    "lora": _lora,
    "optimizer": _checkpoint,
    "checkpoint": _checkpoint,
}
"""What can be moved. ``optimizer`` and ``checkpoint`` are a training checkpoint: weights and state."""
