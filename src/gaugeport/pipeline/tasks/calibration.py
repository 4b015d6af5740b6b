"""Table c5: gauges recovered under every setting of evidence and planting, from the same forward passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from gaugeport.alignment.routes import BASE, ROUTES, Node, walk
from gaugeport.charts import chart_of
from gaugeport.models.loading import load_model
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.measures.calibration.links import Detail, Link, Side, measure_link
from gaugeport.pipeline.measures.calibration.rows import fact_rows, route_rows
from gaugeport.pipeline.measures.calibration.text import cut_text, record
from gaugeport.pipeline.stages.base import base_key
from gaugeport.pipeline.stages.evidence import spaced_steps
from gaugeport.pipeline.stages.rows import data_key, heldout_rows
from gaugeport.pipeline.stages.runs import read_seen_tokens, run_key
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_choice, check_language_model
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.pipeline.training.trainer import checkpoints
from gaugeport.streams.activations import all_sites
from gaugeport.utils.devices import default_device
from gaugeport.utils.seeds import generator

FEWEST_TOKENS = 16
"""The fewest calibration tokens: of fewer a correlation is hardly one."""

NOISE = "noise"
"""The pair of a base model and itself plus noise, and the run that the noisy models are nodes of."""


def check(job: Job) -> None:
    """Check what is asked for.

    Raises:
        ValueError: ``task.pair`` is unknown, or a number of the task is out of range.
    """
    check_language_model(job)
    check_choice(job, "pair", ("runs", NOISE))
    task = job.task
    for key, least in (("lengths", 2), ("tokens", FEWEST_TOKENS), ("plants", 1), ("batch_tokens", 1)):
        values = task[key] if isinstance(task[key], list) else [task[key]]
        if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < least for v in values):
            raise ValueError(f"task.{key}={task[key]}; allowed: whole numbers from {least}")
    if task["at_length"] not in task["lengths"]:
        allowed = ", ".join(map(str, task["lengths"]))
        raise ValueError(f"task.at_length={task['at_length']}; allowed: a length of task.lengths ({allowed})")
    if any(not 0 <= p <= 1 for p in task["shares"]):
        raise ValueError(f"task.shares={task['shares']}; allowed: shares from 0 to 1")
    if any(not 0 < sigma < float("inf") for sigma in task["noise"]):
        raise ValueError(f"task.noise={task['noise']}; allowed: positive numbers")


def stages(job: Job) -> tuple[str, ...]:
    """Return the base model, and for ``pair=runs`` both runs."""
    return ("data", "base") if job.task["pair"] == NOISE else ("data", "base", "A", "B")


def measure(job: Job, built: Built) -> list[Row]:
    """Return the rows of every route, and what the links on them are like."""
    return _noise_rows(job, built) if job.task["pair"] == NOISE else _run_rows(job, built)


def _run_rows(job: Job, built: Built) -> list[Row]:
    """Return the rows of two fine-tuning runs from one base."""
    runs = {run: checkpoints(built[run]) for run in ("A", "B")}
    last = spaced_steps(sorted(runs["A"]), job.measurement.spacing)[-1]
    walks = {route: walk(route, last, job.measurement.spacing) for route in ROUTES}
    seen_a, seen_b = (read_seen_tokens(built[run]) for run in ("A", "B"))

    def load(node: Node) -> PreTrainedModel:
        return _float32(built["base"] if node == BASE else runs[node[0]][node[1]])

    across = ("A", last), ("B", last)
    measure_one = _Links(job, built, load, seen_a[torch.isin(seen_a, seen_b)])
    links = measure_one.all(_around(walks["trajectory"]), with_signs=across)
    detail = _detail(job)
    rows = [row for route in ROUTES for row in route_rows(links, route, walks[route], detail, job.seed)]
    local = [link for ends, link in links.items() if ends in set(_both_ways(walks["trajectory"]))]
    to_base = {f"base to {run}": [links[BASE, (run, last)]] for run in ("A", "B")}
    rows += fact_rows({"A to B": [links[across]], **to_base, "checkpoint to next": local})
    return [{**row, "step": last} for row in rows]


def _noise_rows(job: Job, built: Built) -> list[Row]:
    """Return the rows of the base model against itself plus noise."""
    nodes: dict[Node, float] = {(f"{NOISE} {sigma}", 0): sigma for sigma in job.task["noise"]}

    def load(node: Node) -> PreTrainedModel:
        model = _float32(built["base"])
        return model if node == BASE else add_noise(model, nodes[node], job.seed)

    links = _Links(job, built, load, None).all([(BASE, node) for node in nodes])
    detail, rows = replace(_detail(job), shares=()), []
    for node, sigma in nodes.items():
        link = links[BASE, node]
        of_node = [
            *route_rows(links, "endpoint", [BASE, node], detail, job.seed),
            *fact_rows({"A to B": [link]}),
        ]
        rows += [{**row, "noise": sigma} for row in of_node]
    return rows


@torch.no_grad()
def add_noise(model: PreTrainedModel, sigma: float, seed: int) -> PreTrainedModel:
    """Add Gaussian noise of ``sigma`` standard deviations to every matrix of a model, in place."""
    for name, matrix in model.named_parameters():
        if matrix.dim() == 2:
            noise = torch.randn(matrix.shape, generator=generator(seed, "noise", sigma, name))
            matrix.add_(sigma * matrix.std() * noise.to(matrix.device))
    return model


def _around(trajectory: Sequence[Node]) -> list[tuple[Node, Node]]:
    """Return every link of the three routes: from the base up to A's end, over to B's and down to the base.

    In that order at most three models are in memory, the base among them.
    """
    middle = trajectory.index(BASE)
    ring = [*trajectory[middle::-1], *trajectory[:middle:-1], BASE]
    links: list[tuple[Node, Node]] = []
    for a, b in pairwise(ring):
        links.append((a, b))
        if b in (trajectory[0], trajectory[-1]):
            links.append((BASE, b))
    return list(dict.fromkeys(links))


def _both_ways(nodes: Sequence[Node]) -> list[tuple[Node, Node]]:
    return [link for a, b in pairwise(nodes) for link in ((a, b), (b, a))]


class _Links:
    """Measures links, each once: the store keeps those that are done, if the job is interrupted."""

    def __init__(self, job: Job, built: Built, load: Callable[[Node], PreTrainedModel], seen: Tensor | None):
        self._job, self._built, self._load, self._seen = job, built, load, seen
        rows, task = heldout_rows(built["data"])[0], job.task
        self._text = cut_text(rows, task["lengths"], task["tokens"])
        self._sides: dict[Node, Side] = {}

    def all(
        self, links: Sequence[tuple[Node, Node]], with_signs: tuple[Node, Node] | None = None
    ) -> dict[tuple[Node, Node], Link]:
        """Return links by their nodes; raw correlations are matched on the one of ``with_signs``."""
        done = {}
        for i, (a, b) in enumerate(tqdm(links, desc="links", disable=None)):
            waiting = {node for link in links[i:] for node in link}
            self._sides = {node: side for node, side in self._sides.items() if node in waiting}
            done[a, b] = self._one(a, b, raw=(a, b) == with_signs)
        return done

    def _one(self, a: Node, b: Node, raw: bool) -> Link:
        detail = _detail(self._job) if raw else replace(_detail(self._job), shares=())
        folder = self._built.cache.ensure(
            "calibration", self._key(a, b, raw), lambda folder: self._measured(a, b, detail).save(folder)
        )
        return Link.load(folder)

    def _measured(self, a: Node, b: Node, detail: Detail) -> Link:
        side_a, side_b = self._side(a), self._side(b)
        sites = all_sites(len(chart_of(side_a.model).blocks(side_a.model)))
        return measure_link(side_a, side_b, self._text, sites, detail, self._seen, self._job.seed)

    def _side(self, node: Node) -> Side:
        if node not in self._sides:
            model = self._load(node)
            chart = chart_of(model)
            if chart.group != "signed_permutation":
                raise ValueError(
                    f"task=calibration measures signs, but model={self._job.model.name} has the gauge group "
                    f"{chart.group}; allowed: models with signed_permutation (RMSNorm)"
                )
            sites = all_sites(len(chart.blocks(model)))
            streams = record(model, chart, self._text, sites, self._job.task["batch_tokens"])
            self._sides[node] = Side(node, model, streams)
        return self._sides[node]

    def _key(self, a: Node, b: Node, raw: bool) -> dict[str, Any]:
        job = self._job
        uncounted = ("name", "pair", "batch_tokens", "noise", *(() if raw else ("shares", "plants")))
        runs = {run: run_key(job, run) for run in ("A", "B") if run in self._built.folders}
        return {
            "link": [list(a), list(b)],
            "task": {k: v for k, v in job.task.items() if k not in uncounted},
            "models": {"base": base_key(job), **runs},
            "data": data_key(job),
            "seed": job.seed,
        }


def _detail(job: Job) -> Detail:
    return Detail(job.task["at_length"], tuple(job.task["shares"]), job.task["plants"])


def _float32(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = load_model(folder, dtype=torch.float32, device=default_device())
    return model


TASK = Task(measure, stages, check)
