"""``align(A, B)``: the gauge g with ``g·x_A ≈ x_B``, from activations, weights or both; and along a run's checkpoints."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.alignment.evidence import (
    activation_evidence,
    both,
    check_comparable,
    check_tokenizers,
    pair_moments,
    weight_evidence,
)
from gaugeport.alignment.matchers import (
    MATCHERS,
    check_combination,
    cross_moment,
    default_matchers,
    match,
)
from gaugeport.groups import GROUPS, Element, compose, contains
from gaugeport.streams.activations import check_sites

EVIDENCE = ("activations", "weights", "both")

UNRELATED = 1e-3
"""A median margin below this says so in a warning."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """A recovered ``gauge`` with ``margin`` float64[d] per coordinate of B, the ``objective``, and how it was found.

    ``abstain`` is the margin below which a coordinate is left out; ``dataclasses.replace(found, abstain=x)`` tries
    another without matching again.
    """

    gauge: Element
    margin: Tensor
    objective: float
    group: str
    matcher: str
    evidence: str
    sites: tuple[str, ...]
    abstain: float | None = None

    @property
    def kept(self) -> Tensor:
        """bool[d]: the coordinates *of B* whose margin is at least ``abstain``; all of them without a threshold.

        What ``transport_direction(v, g, kept=…)`` and ``transport_indices(list, g, kept=…)`` take. What that costs:
        a direction loses the share ``lost_share(v, g, kept)`` of its squared length, a list the entries it names in
        ``dropped``. A model, SAE or optimizer state can only be moved whole, by the complete ``gauge``.
        """
        return (
            torch.ones_like(self.margin, dtype=torch.bool)
            if self.abstain is None
            else self.margin >= self.abstain
        )

    def provenance(self) -> dict[str, Any]:
        """What to keep beside a saved gauge: ``alignment.gauge.save(path, alignment.provenance())``."""
        names = ("group", "matcher", "evidence", "objective", "abstain")
        return {
            **{k: getattr(self, k) for k in names},
            "sites": list(self.sites),
            "kept": int(self.kept.sum()),
        }


def align(
    model_a: nn.Module,
    model_b: nn.Module,
    batches: Iterable[dict[str, Tensor]] | None = None,
    group: str | None = None,
    evidence: str = "activations",
    sites: str | Sequence[str] = "all",
    *,
    matcher: str | None = None,
    skip_first: int = 1,
    token_ids: Tensor | None = None,
    tokenizers: tuple[object, object] | None = None,
    allow_larger: bool = False,
    abstain: float | None = None,
) -> Alignment:
    """Recover the gauge that carries A's residual coordinates to B's.

    Args:
        model_a, model_b: causal language models of one architecture, width and vocabulary (for activations of both that
            have the ids of the batches).
        batches: ``{"input_ids": [b, t], "attention_mask": [b, t]}`` tensors; needed unless ``evidence="weights"``.
        group: name of the gauge group; the charts' exact group when omitted (the smaller where they differ).
        evidence: ``activations``, ``weights`` (same-base runs only: head and neuron axes must correspond) or ``both``.
        sites: ``"all"`` (pooled) or a list of ``embed``, ``block0`` …; activation evidence only.
        matcher: as configs name it; the group's own when omitted.
        skip_first: tokens left out at the start of each row (BOS carries massive activations).
        token_ids: vocabulary rows that count as weight evidence (those seen in training).
        tokenizers: those of A and of B, to have checked that one text gives both the same ids.
        allow_larger: accept a group that is larger than the chart's symmetry, e.g. O(d) between independent models.
        abstain: leave coordinates with a smaller margin out of ``kept``; the gauge stays complete. The margin of a
            permutation is in units of the evidence (a correlation or cosine, their sum for ``both``), negative where
            another partner scored higher; of a rotation, the gap between its two largest |Q_ij|. Table c3 measures
            what accuracy which threshold buys: margins sort, but how much is enough depends on how far the models drifted.

    Raises ``ValueError`` on unknown names, a matcher that is not the group's, incomparable models, a group larger than the
    chart's (unless allowed), ``token_ids`` without weight evidence, constant coordinates, activations that are not finite,
    token ids without an embedding, and an ``abstain`` that is no finite number or leaves no coordinate; ``TypeError`` on
    batches that are none. Autocast does not reach it: models run in their own precision.
    """
    if evidence not in EVIDENCE:
        raise ValueError(f"unknown evidence {evidence!r}; allowed: {', '.join(EVIDENCE)}")
    number = isinstance(abstain, int | float) and not isinstance(abstain, bool)
    if abstain is not None and not (number and math.isfinite(abstain)):
        raise ValueError(
            f"abstain={abstain!r}; allowed: None, or a finite margin below which coordinates are left out"
        )
    chart, chart_b = check_comparable(
        model_a, model_b, vocabulary=evidence != "activations" and token_ids is None
    )
    if tokenizers is not None:
        check_tokenizers(*tokenizers)
    # one of the two may have unit gains (a fresh base), hence the larger group: what they share is the smaller one
    exact = chart.group if contains(chart_b.group, GROUPS[chart.group]) else chart_b.group
    group = group or exact
    _check_group(group, exact, allow_larger)
    matcher = matcher or default_matchers()[group]
    check_combination(group, matcher)
    record = MATCHERS[matcher]
    if token_ids is not None and evidence == "activations":
        raise ValueError("token_ids are rows of weight evidence; allowed: evidence='weights' or 'both'")
    used: list[str] = []
    parts: list[Tensor] = []
    if evidence in ("activations", "both"):
        if batches is None:
            raise ValueError(
                f"evidence={evidence!r} needs batches of tokens; allowed without: evidence='weights'"
            )
        used = check_sites(sites, len(chart.blocks(model_a)))
        # rotations that fix the all-ones direction have a sign along it, to be read off the means
        mean_free = group != "mean_preserving_orthogonal"
        models = {"A": model_a, "B": model_b}
        moments = pair_moments(models, [("A", "B")], batches, used, skip_first, mean_free=mean_free)["A", "B"]
        if record.reads_cross_moments:
            parts.append(torch.stack([cross_moment(moments[s]) for s in used]).mean(0))
        else:
            parts.append(activation_evidence(moments, used))
    if evidence in ("weights", "both"):
        parts.append(weight_evidence(model_a, model_b, token_ids, cross=record.reads_cross_moments))
    found = match(reduce(both, parts), group, matcher)
    if record.margins_are_scores and float(found.margin.median()) < UNRELATED:
        warnings.warn(
            f"half of the coordinates have a margin below {UNRELATED}: their partners are hardly ahead of the runners-up. "
            "Two models that share no base have no permutation gauge between them; runs that drifted far want align_along "
            "their checkpoints",
            stacklevel=2,
        )
    return _some_kept(
        Alignment(found.gauge, found.margin, found.objective, group, matcher, evidence, tuple(used), abstain)
    )


def align_along(
    models: Sequence[nn.Module | Callable[[], nn.Module]],
    batches: Iterable[dict[str, Tensor]] | None = None,
    group: str | None = None,
    evidence: str = "activations",
    sites: str | Sequence[str] = "all",
    **options: Any,
) -> Alignment:
    """Compose the local gauges along a walk of checkpoints (paper A's trajectory route), first model to last.

    ``models`` are the checkpoints in walking order, e.g. A_K … A_1, base, B_1 … B_K; give functions that load them to
    hold only two at a time. The margin of a coordinate is the smallest on its way, so that with ``abstain`` it is kept
    where every link keeps it; the objective is the last link's.
    Other arguments and errors as :func:`align`.
    """
    if len(models) < 2:
        raise ValueError(f"a walk needs at least two checkpoints, found {len(models)}")
    batches = None if batches is None else list(batches)  # read once for every link
    here = _loaded(models[0])
    total: Alignment | None = None
    for step in models[1:]:
        there = _loaded(step)
        local = align(here, there, batches, group, evidence, sites, **options)
        total = local if total is None else _then(total, local)
        here = there
    assert total is not None
    return _some_kept(total)


def _then(first: Alignment, second: Alignment) -> Alignment:
    gauge = compose(second.gauge, first.gauge)
    perm = getattr(second.gauge, "perm", None)
    before = first.margin if perm is None else first.margin[perm]
    return Alignment(
        gauge,
        torch.minimum(before, second.margin),
        second.objective,
        *(getattr(second, k) for k in ("group", "matcher", "evidence", "sites", "abstain")),
    )


def _some_kept(found: Alignment) -> Alignment:
    if not bool(found.kept.any()):
        raise ValueError(
            f"abstain={found.abstain} leaves no coordinate: the largest margin is {float(found.margin.max()):.4g}"
        )
    return found


def _loaded(model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    return model if isinstance(model, nn.Module) else model()


def _check_group(group: str, exact: str, allow_larger: bool) -> None:
    groups = list(default_matchers())
    if group not in groups:
        raise ValueError(f"unknown gauge group {group!r}; allowed: {', '.join(groups)}")
    if not allow_larger and not contains(exact, GROUPS[group]):
        raise ValueError(
            f"{group} is larger than this chart's exact gauge group {exact}: its other elements change what the model "
            f"computes. Allowed here: {', '.join(g for g in groups if contains(exact, GROUPS[g]))}; pass "
            "allow_larger=True to fit it all the same (rotations between independently trained models)"
        )
