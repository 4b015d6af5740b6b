"""``gaugeport audit``: what an index list, a direction and an SAE are worth on a copy in other coordinates.

A model moved by a random element of its gauge group computes the same function, so whatever is said of it
should hold for the copy. What is written in coordinates does not, until the gauge is named.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

import gaugeport as gp
from gaugeport.charts.chart import Chart, chart_of
from gaugeport.groups import GROUPS, Element, SignedPermutation
from gaugeport.models.loading import check_model
from gaugeport.streams.activations import check_site, middle_site, streams_at
from gaugeport.streams.interventions import adding, edited
from gaugeport.streams.massive import leave_out_massive
from gaugeport.texts import row_batches
from gaugeport.tool.answer import Answer, json_number, percent
from gaugeport.tool.opening import opener
from gaugeport.tool.sae import Reconstruct, open_sae
from gaugeport.tool.text import positions_of, token_rows
from gaugeport.transport.direction_formats import read_directions
from gaugeport.transport.index_files import read_lists
from gaugeport.utils.progress import Progress, progress_bar

TOP = 64
"""Length of the index list that is made where the user has none."""

ROWS_PER_BATCH = 8


@dataclass(frozen=True)
class Request:
    """What to audit.

    Attributes:
        model: A folder, hub id or ``.gguf`` file.
        indices: A file with a list of coordinates; None for the :data:`TOP` of the largest mean |activation|.
        direction: A file with a direction at ``site``; None for the mean of the stream there.
        sae: A folder of sae-lens, sparsify or dictionary_learning with an SAE at ``site``; None for none.
        site: Where lists, directions and SAEs belong; None for the middle block.
        draws: How many random gauges.
        tokens: How many tokens to read.
        text, field: A file of text and its field; None for English that comes with Python.
        seed: Seed of the gauges.
    """

    model: str
    indices: Path | None = None
    direction: Path | None = None
    sae: Path | None = None
    site: str | None = None
    draws: int = 3
    tokens: int = 4096
    text: Path | None = None
    field: str = "text"
    seed: int = 0


@dataclass(frozen=True)
class Model:
    """A model with what is read of it.

    Attributes:
        model: The model.
        chart: Its chart.
        site: Where it is read.
        rows: int64[n, length], the tokens.
        bar: Told how far reading is.
    """

    model: Any
    chart: Chart
    site: str
    rows: Tensor
    bar: Progress | None = None

    @property
    def batches(self) -> list[dict[str, Tensor]]:
        """The tokens, as the model reads them."""
        return list(row_batches(self.rows, ROWS_PER_BATCH))

    @functools.cached_property
    def stream(self) -> Tensor:
        """The stream at the site, float32[tokens, d], without massive tokens."""
        parts = []
        for batch in self.batches:
            streams = streams_at(self.model, self.chart, batch, [self.site], mean_free=False)
            parts.append(streams[self.site])
            if self.bar is not None:
                self.bar(len(parts), len(self.batches), "reading the stream")
        return leave_out_massive(torch.cat(parts))[0]

    @torch.no_grad()
    def effect(self, direction: Tensor) -> Tensor:
        """Return the change of the logits after each row's last token when a direction is added."""
        last = self.rows[:, -min(32, self.rows.shape[1]) :]
        plain = self.model(last).logits[:, -1]
        with edited(self.model, self.chart, self.site, adding(direction)):
            return self.model(last).logits[:, -1] - plain


Measure = Callable[[Model, Model, Element], tuple[float, float]]
"""From the model, its moved copy and the recovered gauge: the figure without and with the gauge."""


def audit(request: Request) -> Answer:
    """Measure what is written in a model's coordinates on copies of it in random other coordinates.

    Raises:
        ValueError: ``draws`` is below 1, the site is unknown, or a file does not fit the model.
        FileNotFoundError: A file does not exist.
    """
    if request.draws < 1:
        raise ValueError(f"draws={request.draws}; allowed: 1 or more")
    check_model(request.model, tokenizer=True)
    here = _opened(request)
    generator, group = torch.Generator().manual_seed(request.seed), here.chart.group
    placed = []
    # one pass here, and for each draw one of both models together and one of the copy
    with progress_bar(len(here.batches) * (1 + 2 * request.draws)) as bar:
        here = replace(here, bar=bar)
        objects = _objects(request, here)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in objects}
        for _ in range(request.draws):
            planted = GROUPS[group].random(here.chart.width, generator)
            there = replace(here, model=gp.transport_model(here.model, planted))
            gauge = gp.align(here.model, there.model, here.batches, progress=bar).gauge
            placed.append(_share_right(gauge, planted))
            for name, measure in objects.items():
                found[name].append(measure(here, there, gauge))
    return _answer(request, here, group, placed, found)


def _opened(request: Request) -> Model:
    model = opener(request.model)()
    chart = chart_of(model)
    site = request.site or middle_site(model, chart)
    site = check_site(site, len(chart.blocks(model)), chart)
    rows, _ = token_rows(
        gp.load_tokenizer(request.model),
        request.tokens,
        positions_of(model.config),
        request.text,
        request.field,
    )
    return Model(model, chart, site, rows)


def _objects(request: Request, here: Model) -> dict[str, Measure]:
    """Return what is audited: a name for the table, and its measure."""
    objects: dict[str, Measure] = {}
    stream = here.stream
    if here.chart.group in ("orthogonal", "mean_preserving_orthogonal"):
        if request.indices is not None:
            raise ValueError(
                f"the gauge group of {request.model} is {here.chart.group}: rotations mix coordinates, so no "
                "list of coordinates means the same in a moved copy; leave out --indices"
            )
    elif request.indices is not None:
        listed = _read_list(request.indices)
        objects[f"list of {len(listed)} coordinates, overlap (Jaccard)"] = _list_measure(listed)
    else:
        objects[f"top {TOP} coordinates by mean |x|, overlap (Jaccard)"] = _top_measure(
            min(TOP, stream.shape[1])
        )
    if request.direction is not None:
        direction = _read_direction(request.direction, here.chart.width)
        objects["your direction, share of its effect on logits"] = _direction_measure(direction)
    else:
        objects["mean of the stream as a direction, share of its effect"] = _direction_measure(stream.mean(0))
    if request.sae is not None:
        objects["SAE, NMSE"] = _sae_measure(request.sae, here.chart.width)
    return objects


def _list_measure(listed: list[int]) -> Measure:
    def measure(here: Model, there: Model, gauge: Element) -> tuple[float, float]:
        # where the coordinates are in the copy, each found by its own stream and not by the recovered gauge
        x, y = (model.stream - model.stream.mean(0) for model in (here, there))
        x, y = x / x.norm(dim=0).clamp_min(1e-12), y / y.norm(dim=0).clamp_min(1e-12)
        truth = set((y.T @ x[:, listed]).abs().argmax(0).tolist())
        return _jaccard(set(listed), truth), _jaccard(_moved_list(listed, gauge), truth)

    return measure


def _top_measure(k: int) -> Measure:
    def measure(here: Model, there: Model, gauge: Element) -> tuple[float, float]:
        ours, theirs = (model.stream.abs().mean(0).topk(k).indices.tolist() for model in (here, there))
        return _jaccard(set(ours), set(theirs)), _jaccard(_moved_list(ours, gauge), set(theirs))

    return measure


def _direction_measure(direction: Tensor) -> Measure:
    def measure(here: Model, there: Model, gauge: Element) -> tuple[float, float]:
        effect = here.effect(direction)
        size = float(effect.square().sum())
        kept = [
            float((there.effect(v) * effect).sum()) / size
            for v in (direction, gp.transport_direction(direction, gauge))
        ]
        return kept[0], kept[1]

    return measure


def _sae_measure(source: Path, width: int) -> Measure:
    moved = open_sae(source, width)

    def measure(here: Model, there: Model, gauge: Element) -> tuple[float, float]:
        x = there.stream
        return _nmse(moved(None), x), _nmse(moved(gauge), x)

    return measure


@torch.no_grad()
def _nmse(reconstruct: Reconstruct, x: Tensor) -> float:
    return float((x - reconstruct(x)).square().sum() / (x - x.mean(0)).square().sum())


def _read_list(path: Path) -> list[int]:
    listed = read_lists(path)
    if isinstance(listed, dict):
        raise ValueError(f"{path} holds several lists, {', '.join(listed)}; expected one list of coordinates")
    return [int(i) for i in listed]


def _read_direction(path: Path, width: int) -> Tensor:
    tensors = read_directions(path).tensors
    fitting = [t for t in tensors.values() if t.shape == (width,)]
    if len(fitting) != 1:
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
        raise ValueError(f"{path}: expected one direction of {width} coordinates, got {shapes}")
    return fitting[0].float()


def _moved_list(listed: list[int], gauge: Element) -> set[int]:
    return set(gp.transport_indices(listed, gauge).index.tolist())


def _jaccard(a: set[int], b: set[int]) -> float:
    return len(a & b) / len(a | b)


def _share_right(found: Element, planted: Element) -> float:
    if isinstance(found, SignedPermutation) and isinstance(planted, SignedPermutation):
        right = (found.perm == planted.perm) & (found.sign == planted.sign)
        return float(right.double().mean())
    change = found.dense() - planted.dense()
    return max(0.0, 1 - float(change.square().sum()) / (2 * found.size))


def _answer(
    request: Request,
    here: Model,
    group: str,
    placed: list[float],
    found: Mapping[str, list[tuple[float, float]]],
) -> Answer:
    lines = [
        f"{request.model}: {group}, d = {here.chart.width}, read at {here.site}",
        f"{request.draws} random gauges; recovered: {percent(fmean(placed))} of the coordinates",
        "",
        f"{'':<58} {'as it is':>10} {'moved':>10}",
    ]
    rows = []
    for name, pairs in found.items():
        without, with_gauge = (fmean(p[i] for p in pairs) for i in (0, 1))
        lines.append(f"{name:<58} {without:>10.3g} {with_gauge:>10.3g}")
        rows.append({"what": name, "as_it_is": json_number(without), "moved": json_number(with_gauge)})
    lines += [
        "",
        "as it is: used on the copy unchanged. moved: by the gauge that was recovered from model and copy.",
    ]
    data = {
        "model": request.model, "group": group, "width": here.chart.width, "site": here.site,
        "draws": request.draws, "recovered": fmean(placed), "audited": rows,
    }  # fmt: skip
    return Answer("\n".join(lines), data)
