"""Read evidence between the saved checkpoints of two runs, with a random gauge planted on each.

Two runs from one base share coordinates, so the true gauge between two of their checkpoints is known: it is
the quotient of the planted gauges. *Every* checkpoint is planted, the base too: a matcher that breaks ties in
favour of the identity gains nothing by it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from gaugeport.alignment.matchers import cross_moment
from gaugeport.alignment.moments import Moments
from gaugeport.alignment.routes import Node, storage_order
from gaugeport.groups import Element, compose, load
from gaugeport.pipeline.measures.plants import UNIFORM, node_name


class PlantedEvidence:
    """The evidence and the true gauges in a folder that :mod:`evidence_files` wrote."""

    def __init__(self, folder: Path, positive_share: float = UNIFORM):
        """Read the plants in ``folder``; evidence is read when asked for.

        Args:
            folder: the folder.
            positive_share: what its plants were drawn with, and further plants will be.
        """
        self.folder, self.positive_share = folder, positive_share
        self.plants = {p.stem: load(p) for p in (folder / "plants").glob("*.safetensors")}
        # keep only a few links in memory: each has several d × d matrices, and there are many links
        self._file = functools.lru_cache(maxsize=8)(load_file)

    @property
    def width(self) -> int:
        """The width d of the residual stream."""
        return next(iter(self.plants.values())).size

    @functools.cached_property
    def sites(self) -> list[str]:
        """The sites with evidence, in order of depth."""
        with safe_open(next(self.folder.glob("*.safetensors")), framework="pt") as f:
            tensors = list(f.keys())
        sites = {key.removesuffix(".cross") for key in tensors if key.endswith(".cross")}
        return sorted(sites, key=lambda s: -1 if s == "embed" else int(s.removeprefix("block")))

    def loss_rows(self, last: int) -> list[dict[str, Any]]:
        """Return rows of held-out losses, nats per token: base at step 0, A and B at step ``last``."""
        losses = json.loads((self.folder / "losses.json").read_text())
        return [
            {"step": 0 if model == "base" else last, "metric": f"loss_{model}", "value": value}
            for model, value in losses.items()
        ]

    def massive_rows(self) -> list[dict[str, Any]]:
        """Return a row per site that left tokens out as massive: their number, the mean over links."""
        counts: dict[str, list[int]] = {site: [] for site in self.sites}
        for path in self.folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as f:
                for site, found in counts.items():
                    key = f"{site}.left_out"
                    found.append(int(f.get_tensor(key)) if key in f.keys() else 0)
        return massive_rows({site: fmean(found) for site, found in counts.items()})

    def truth(self, nodes: Sequence[Node]) -> Element:
        """Return the true gauge of a walk, between the planted coordinates of its first and last node."""
        first, last = (self.plants[node_name(n)] for n in (nodes[0], nodes[-1]))
        return compose(last, first.inverse())

    def between(self, a: Node, b: Node, kind: str, cross: bool = False) -> Tensor:
        """Return the evidence between two checkpoints.

        Args:
            a: the checkpoint to match from.
            b: the checkpoint to match to; either order of a stored link is allowed.
            kind: a site, ``pooled`` (the mean over sites), ``weights`` (of the vocabulary rows seen in
                training), ``weights_all_rows``, or ``both`` (``pooled`` plus ``weights``).
            cross: return cross moments of sites (for Procrustes) instead of correlations.

        Returns:
            float64[d, d], indexed [b, a].
        """
        link = storage_order(a, b)
        tensors = self._file(self.folder / f"{node_name(link[0])}-{node_name(link[1])}.safetensors")
        c = self._of(tensors, kind, cross)
        return c if link == (a, b) else c.T

    def _of(self, tensors: dict[str, Tensor], kind: str, cross: bool) -> Tensor:
        if kind.startswith("weights"):
            # columns have length 1; divided by d the matrix has total variance 1, as cross moments have
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


def massive_rows(tokens: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return rows ``{site, metric: massive_tokens, value}`` for the sites that left any tokens out."""
    return [{"site": site, "metric": "massive_tokens", "value": n} for site, n in tokens.items() if n]


def relabel_evidence(c: Tensor, h_a: Element, h_b: Element) -> Tensor:
    """Return the evidence after planting ``h_a`` on A and ``h_b`` on B, without running a model again.

    Args:
        c: evidence [d, d], indexed [b, a].
        h_a: element to plant on A.
        h_b: element to plant on B.

    Returns:
        The relabelled evidence, of the shape and dtype of ``c``. It is exact because evidence is equivariant.
    """
    return h_b.act(h_a.act(c, axis=1), axis=0)


def replanted_truth(truth: Element, first: Element, last: Element) -> Element:
    """Return a walk's true gauge once ``first`` and ``last`` are planted on its first and last checkpoint."""
    return compose(last, compose(truth, first.inverse()))
