"""Recover the gauge between two models (``align``), or along the checkpoints of two runs
(``align_along``)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.alignment.evidence import (
    activation_evidence,
    both,
    check_comparable,
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
from gaugeport.alignment.result import Alignment, check_some_kept
from gaugeport.alignment.tokenizers import check_tokenizers
from gaugeport.groups import GROUPS, compose, contains
from gaugeport.streams.activations import check_sites
from gaugeport.streams.massive import LEAVE_OUT, check_treatment

EVIDENCE = ("activations", "weights", "both")

WARN_BELOW_MEDIAN_MARGIN = 1e-3
"""``align`` warns below this median margin (in units of the evidence): the models look unrelated."""


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
    massive: str = LEAVE_OUT,
) -> Alignment:
    """Recover the gauge that carries A's residual coordinates to B's.

    Models run in their own precision: an autocast context around the call has no effect.

    Args:
        model_a: causal language model A.
        model_b: causal language model B, of the same architecture and width. The vocabularies must be equal
            for weight evidence without ``token_ids``; for activations both models must know the ids in the
            batches.
        batches: dicts of ``input_ids`` int64[b, t] and optionally ``attention_mask`` int64[b, t]. Required
            unless ``evidence="weights"``.
        group: name of the gauge group. Default: the charts' exact group, the smaller one if A's and B's
            differ.
        evidence: ``"activations"``, ``"weights"`` or ``"both"``. Weights require runs from one base, because
            their head and neuron axes must correspond.
        sites: ``"all"`` (averaged), or one or several of ``embed``, ``block0``, ... or other libraries' names
            of them (:func:`gaugeport.streams.activations.check_sites`); used by activation evidence only.
        matcher: name of the matcher. Default: the group's own.
        skip_first: number of tokens to leave out at the start of each row, massive or not.
        token_ids: int64[n], the vocabulary rows that count as weight evidence, e.g. those seen in training.
        tokenizers: A's and B's tokenizers, to check that they encode texts to the same ids
            (:mod:`gaugeport.alignment.tokenizers`).
        allow_larger: accept a group larger than the chart's symmetry, e.g. O(d) between independent models.
        abstain: leave coordinates with a smaller margin out of ``kept``. The gauge stays complete. The margin
            of a permutation is in units of the evidence (a correlation or cosine; their sum for ``"both"``)
            and negative where another partner scored higher. The margin of a rotation is the gap between the
            two largest |Q_ij| in its row. Larger margins are more often right, but how large is large enough
            depends on how far the models drifted.
        massive: ``leave_out`` tokens whose norm at a site is massive in either model, or ``keep`` them
            (:mod:`gaugeport.streams.massive`). ``Alignment.massive_tokens`` counts those left out.

    Returns:
        The recovered gauge with its margins.

    Raises:
        ValueError: for an unknown name, a matcher that does not recover elements of the group, models that
            cannot be compared, a group larger than the chart's (unless ``allow_larger``), ``token_ids``
            without weight evidence, a coordinate that is constant at every site, activations that are not
            finite, a token id without an embedding, or an ``abstain`` that is not finite or leaves no
            coordinate.
        TypeError: for batches that are not dicts of tensors.
    """
    # 1) check the arguments, before a batch is read
    if evidence not in EVIDENCE:
        raise ValueError(f"unknown evidence {evidence!r}; allowed: {', '.join(EVIDENCE)}")
    _check_abstain(abstain)
    check_treatment(massive)
    chart_a, chart_b = check_comparable(
        model_a, model_b, vocabulary=evidence != "activations" and token_ids is None
    )
    if tokenizers is not None:
        check_tokenizers(*tokenizers)
    # A model with unit gains (a fresh base) has a larger group; what both models share is the smaller one.
    exact = chart_a.group if contains(chart_b.group, GROUPS[chart_a.group]) else chart_b.group
    group = group or exact
    _check_group(group, exact, allow_larger)
    matcher_name = matcher or default_matchers()[group]
    check_combination(group, matcher_name)
    chosen = MATCHERS[matcher_name]
    if token_ids is not None and evidence == "activations":
        raise ValueError("token_ids select rows of weight evidence; allowed: evidence='weights' or 'both'")

    # 2) collect evidence
    used_sites: list[str] = []
    left_out: dict[str, int] = {}
    parts: list[Tensor] = []
    if evidence in ("activations", "both"):
        if batches is None:
            raise ValueError(
                f"evidence={evidence!r} needs batches of tokens; allowed without batches: evidence='weights'"
            )
        used_sites = check_sites(sites, len(chart_a.blocks(model_a)), chart_a)
        moments = pair_moments(
            {"A": model_a, "B": model_b},
            [("A", "B")],
            batches,
            used_sites,
            skip_first,
            # Elements that fix the all-ones direction have a sign along it, which only the token means show.
            mean_free=group != "mean_preserving_orthogonal",
            massive=massive,
        )["A", "B"]
        left_out = {site: m.left_out for site, m in moments.items()}
        if chosen.reads_cross_moments:
            parts.append(torch.stack([cross_moment(moments[site]) for site in used_sites]).mean(0))
        else:
            parts.append(activation_evidence(moments, used_sites))
    if evidence in ("weights", "both"):
        parts.append(weight_evidence(model_a, model_b, token_ids, cross=chosen.reads_cross_moments))

    # 3) match
    result = match(reduce(both, parts), group, matcher_name)
    if chosen.margins_are_scores and float(result.margin.median()) < WARN_BELOW_MEDIAN_MARGIN:
        warnings.warn(
            f"half of the coordinates have a margin below {WARN_BELOW_MEDIAN_MARGIN}: their partner scores "
            "hardly more than the next candidate. Models without a common base have no permutation gauge "
            "between them; for runs that drifted far, use align_along on their checkpoints",
            stacklevel=2,
        )
    found = result.gauge, result.margin, result.objective
    alignment = Alignment(
        *found, group, matcher_name, evidence, tuple(used_sites), abstain, massive_tokens=left_out
    )
    check_some_kept(alignment)
    return alignment


def align_along(
    models: Sequence[nn.Module | Callable[[], nn.Module]],
    batches: Iterable[dict[str, Tensor]] | None = None,
    group: str | None = None,
    evidence: str = "activations",
    sites: str | Sequence[str] = "all",
    **options: Any,
) -> Alignment:
    """Compose the local gauges along a walk of checkpoints (paper A's trajectory route).

    The margin of a coordinate is the smallest one on its way, so that ``abstain`` keeps it only where every
    link does. The objective is that of the last link; massive tokens are counted over all links.

    Args:
        models: checkpoints in walking order, e.g. A_K, ..., A_1, base, B_1, ..., B_K; or functions that load
            them, so that only two are in memory at a time.
        batches: as in :func:`align`; the same batches serve every link.
        group, evidence, sites: as in :func:`align`.
        **options: further arguments of :func:`align`.

    Returns:
        The alignment of the first model with the last; its ``links`` are the local ones.

    Raises:
        ValueError: for fewer than two models, and as :func:`align`.
    """
    if len(models) < 2:
        raise ValueError(f"expected at least two checkpoints in a walk, got {len(models)}")
    batches = None if batches is None else list(batches)  # an iterator would be used up by the first link
    here = _loaded(models[0])
    total: Alignment | None = None
    for next_model in models[1:]:
        there = _loaded(next_model)
        link = align(here, there, batches, group, evidence, sites, **options)
        total = replace(link, links=(link,)) if total is None else _compose_alignments(total, link)
        here = there
    assert total is not None
    check_some_kept(total)
    return total


def _compose_alignments(first: Alignment, second: Alignment) -> Alignment:
    # The margins of `first` belong to the middle model's coordinates: permute them to those of the last
    # model.
    perm = getattr(second.gauge, "perm", None)
    first_margin = first.margin if perm is None else first.margin[perm]
    return replace(
        second,
        gauge=compose(second.gauge, first.gauge),
        margin=torch.minimum(first_margin, second.margin),
        massive_tokens={s: n + first.massive_tokens[s] for s, n in second.massive_tokens.items()},
        links=(*first.links, second),
    )


def _loaded(model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    return model if isinstance(model, nn.Module) else model()


def _check_abstain(abstain: float | None) -> None:
    number = isinstance(abstain, int | float) and not isinstance(abstain, bool)
    if abstain is not None and not (number and math.isfinite(abstain)):
        raise ValueError(
            f"abstain={abstain!r}; allowed: None, or a finite margin below which coordinates are left out"
        )


def _check_group(group: str, exact: str, allow_larger: bool) -> None:
    groups = list(default_matchers())
    if group not in groups:
        raise ValueError(f"unknown gauge group {group!r}; allowed: {', '.join(groups)}")
    allowed = [g for g in groups if contains(exact, GROUPS[g])]
    if not allow_larger and group not in allowed:
        raise ValueError(
            f"{group} is larger than this chart's exact gauge group {exact}: its further elements change "
            f"what the model computes. Allowed here: {', '.join(allowed)}; pass allow_larger=True to fit it "
            "anyway (rotations between independently trained models)"
        )
