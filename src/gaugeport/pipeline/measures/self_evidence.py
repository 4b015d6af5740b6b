"""Make evidence between a checkpoint and a functionally identical copy: only the gauge differs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.alignment.evidence import check_no_constant, pair_moments, weight_evidence
from gaugeport.alignment.matchers import cross_moment
from gaugeport.alignment.routes import Node
from gaugeport.charts import chart_of
from gaugeport.groups import Element, compose
from gaugeport.pipeline.measures.planted_evidence import massive_rows, relabel_evidence
from gaugeport.pipeline.measures.plants import COPY, UNIFORM, draw_plant, node_name
from gaugeport.streams.massive import LEAVE_OUT
from gaugeport.utils.seeds import generator


class SelfEvidence:
    """The evidence of the link A → copy, with an independent random gauge planted on each.

    The activations of a transported model are the transported activations. So the evidence is that of A with
    itself, relabelled by both plants, and the model runs once.
    """

    def __init__(
        self,
        model: nn.Module,
        step: int,
        batches: Iterable[dict[str, Tensor]],
        *,
        sites: str | Sequence[str],
        skip_first: int,
        seen: Tensor,
        seed: int,
        massive: str = LEAVE_OUT,
        positive_share: float = UNIFORM,
    ):
        """Run the model and draw the plants.

        Args:
            model: the checkpoint of run A.
            step: its step, which names the two nodes.
            batches: batches of token ids to run the model on.
            sites: sites of the stream to record, or ``"all"``.
            skip_first: number of tokens at the start of each row to leave out.
            seen: int64[n], the vocabulary rows that weight evidence may read.
            seed: seed of the plants.
            massive: ``leave_out`` massive tokens, or ``keep`` them.
            positive_share: expected share of positive signs of the true gauge from A to the copy; see
                ``plants``.

        Raises:
            ValueError: a coordinate is constant at every site.
        """
        chart = chart_of(model)
        self.width = chart.width
        self.nodes: tuple[Node, Node] = (("A", step), (COPY, step))
        self.positive_share = positive_share
        self.plants: dict[str, Element] = {
            node_name(n): draw_plant(
                chart.group, chart.width, n, positive_share, generator(seed, "plant", *n)
            )
            for n in self.nodes
        }
        pair = ("A", "A")
        moments = pair_moments({"A": model}, [pair], batches, sites, skip_first, massive=massive)[pair]
        check_no_constant(moments, list(moments))
        self.sites = list(moments)
        self._left_out = {s: m.left_out for s, m in moments.items()}
        self._correlation = {s: m.correlation() for s, m in moments.items()}
        self._cross = {s: cross_moment(m) for s, m in moments.items()}
        self._weights = {
            "weights": weight_evidence(model, model, seen),
            "weights_all_rows": weight_evidence(model, model),
        }

    def massive_rows(self) -> list[dict[str, Any]]:
        """Return a row per site that left tokens out as massive: their number."""
        return massive_rows(self._left_out)

    def truth(self, nodes: Sequence[Node]) -> Element:
        """Return the true gauge of the link, from A's planted coordinates to the copy's."""
        first, last = (self.plants[node_name(n)] for n in (nodes[0], nodes[-1]))
        return compose(last, first.inverse())

    def between(self, a: Node, b: Node, kind: str, cross: bool = False) -> Tensor:
        """Return evidence float64[d, d], indexed [b, a]; arguments as in ``PlantedEvidence.between``."""
        return relabel_evidence(self._of(kind, cross), self.plants[node_name(a)], self.plants[node_name(b)])

    def _of(self, kind: str, cross: bool) -> Tensor:
        if kind in self._weights:
            return self._weights[kind] / (self.width if cross else 1)
        if kind == "both":
            return self._of("pooled", cross) + self._of("weights", cross)
        at = self._cross if cross else self._correlation
        return torch.stack([at[s] for s in self.sites]).mean(0) if kind == "pooled" else at[kind]
