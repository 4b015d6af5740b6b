"""Evidence of every link between the saved checkpoints of two runs, with a random gauge planted on each of them.

Runs from one base share coordinates, so the truth is known: it is the planted gauges. Planting on *every*
checkpoint, base included, keeps ties from resolving to the right answer for free (DESIGN §1).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from gaugeport.alignment.evidence import check_no_constant, pair_moments, weight_evidence
from gaugeport.alignment.matchers import cross_moment
from gaugeport.alignment.moments import Moments
from gaugeport.alignment.routes import Node, stored
from gaugeport.charts import chart_of
from gaugeport.groups import GROUPS, Element, compose, load
from gaugeport.transport import transport_model
from gaugeport.utils.seeds import generator

Link = tuple[Node, Node]


def node_name(node: Node) -> str:
    """A node as a file name: ``base0``, ``A1500``."""
    return f"{node[0]}{node[1]}"


def write_evidence(
    folder: Path,
    links: Sequence[Link],
    load_checkpoint: Callable[[Node], nn.Module],
    batches: Sequence[dict[str, Tensor]],
    *,
    sites: str | Sequence[str],
    skip_first: int,
    seen: Tensor,
    seed: int,
    models_in_memory: int,
    whiten: bool = False,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write ``folder/<a>-<b>.safetensors`` (moments by site and weight evidence) per link, and ``plants/<node>``.

    Each checkpoint is loaded, given a random element of its chart's exact group, and run on the batches. At most
    ``models_in_memory`` models are held at once. ``seen`` int64[n] are the vocabulary rows both runs were trained on.
    Models run in ``dtype``; ``whiten`` writes the moments of whitened activations.
    """
    for group in tqdm(group_links(links, models_in_memory), desc="evidence", disable=None):
        models: dict[str, nn.Module] = {}
        for node in sorted({n for link in group for n in link}):
            model = load_checkpoint(node)
            chart = chart_of(model)
            plant = GROUPS[chart.group].random(chart.width, generator(seed, "plant", *node))
            models[node_name(node)] = transport_model(model, plant, inplace=True).to(dtype)
            plant.save(folder / "plants" / f"{node_name(node)}.safetensors")
        pairs = [(node_name(a), node_name(b)) for a, b in group]
        moments = pair_moments(models, pairs, batches, sites, skip_first, whiten)
        for a, b in pairs:
            check_no_constant(moments[a, b], list(moments[a, b]))
            tensors = {f"{s}.{k}": v for s, m in moments[a, b].items() for k, v in m.tensors().items()}
            tensors["weights"] = weight_evidence(models[a], models[b], seen).to(torch.float32)
            tensors["weights_all_rows"] = weight_evidence(models[a], models[b]).to(torch.float32)
            save_file(tensors, folder / f"{a}-{b}.safetensors")


def group_links(links: Sequence[Link], models_in_memory: int) -> list[list[Link]]:
    """The links in order, cut into groups that touch at most ``models_in_memory`` checkpoints each (at least 2)."""
    if models_in_memory < 2:
        raise ValueError(
            f"a link needs two models at once: models_in_memory is {models_in_memory}, at least 2 allowed"
        )
    groups: list[list[Link]] = []
    held: set[Node] = set()
    for link in links:
        if not groups or len(held | set(link)) > models_in_memory:
            groups.append([])
            held = set()
        groups[-1].append(link)
        held |= set(link)
    return groups


class PlantedEvidence:
    """What :func:`write_evidence` left in a folder, read back; evidence and truth of any link, in either direction."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.plants = {p.stem: load(p) for p in (folder / "plants").glob("*.safetensors")}
        self._file = functools.lru_cache(maxsize=8)(
            load_file
        )  # a few links at a time: d² each, and there are many

    @property
    def width(self) -> int:
        """The residual width d."""
        return next(iter(self.plants.values())).size

    @functools.cached_property
    def sites(self) -> list[str]:
        """The sites measured, in order of depth."""
        with safe_open(next(self.folder.glob("*.safetensors")), framework="pt") as f:
            tensors = list(f.keys())
        found = {k.removesuffix(".cross") for k in tensors if k.endswith(".cross")}
        return sorted(found, key=lambda s: -1 if s == "embed" else int(s.removeprefix("block")))

    def loss_rows(self, last: int) -> list[dict[str, Any]]:
        """Held-out losses in nats per token: of the base, at step 0, and of A and B, at the ``last``."""
        losses = json.loads((self.folder / "losses.json").read_text())
        return [
            {"step": 0 if model == "base" else last, "metric": f"loss_{model}", "value": value}
            for model, value in losses.items()
        ]

    def truth(self, nodes: Sequence[Node]) -> Element:
        """The true gauge of a walk, from its first node's planted coordinates to its last's."""
        first, last = (self.plants[node_name(n)] for n in (nodes[0], nodes[-1]))
        return compose(last, first.inverse())

    def between(self, a: Node, b: Node, kind: str, cross: bool = False) -> Tensor:
        """Evidence float64[d, d] indexed [b, a]. ``kind`` is a site, ``pooled``, ``weights``, ``weights_all_rows``
        or ``both``; ``cross`` gives cross moments (for Procrustes) instead of correlations at sites."""
        link = stored(a, b)
        tensors = self._file(self.folder / f"{node_name(link[0])}-{node_name(link[1])}.safetensors")
        c = self._of(tensors, kind, cross)
        return c if link == (a, b) else c.T

    def _of(self, tensors: dict[str, Tensor], kind: str, cross: bool) -> Tensor:
        if kind.startswith("weights"):
            # columns of length 1: over d, each matrix has total variance 1, as cross moments have
            return tensors[kind].to(torch.float64) / (self.width if cross else 1)
        if kind == "both":
            return self._of(tensors, "pooled", cross) + self._of(tensors, "weights", cross)
        if kind == "pooled":
            return torch.stack([self._of(tensors, s, cross) for s in self.sites]).mean(0)
        prefix = f"{kind}."
        moments = Moments.from_tensors(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        return cross_moment(moments) if cross else moments.correlation()


def relabel_evidence(c: Tensor, h_a: Element, h_b: Element) -> Tensor:
    """The evidence that planting ``h_a`` on A and ``h_b`` on B would have given: evidence is equivariant."""
    return h_b.act(h_a.act(c, axis=1), axis=0)


def further_plants(
    width: int, group: str, walk: Sequence[Node], seed: int, plant: int
) -> dict[Node, Element]:
    """Elements to put on top of the planted ones: identities for plant 0, an independent draw per node for others."""
    cls = GROUPS[group]
    if plant == 0:
        return {node: cls.identity(width) for node in walk}
    return {node: cls.random(width, generator(seed, "replant", plant, *node)) for node in walk}


def replanted_truth(truth: Element, first: Element, last: Element) -> Element:
    """The truth of a walk after further elements were planted on its first and last node."""
    return compose(last, compose(truth, first.inverse()))
