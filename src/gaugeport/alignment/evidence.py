"""Collect evidence for a gauge: float[d, d] matrices C of similarities between coordinates of B and of A.

``C[i, j]`` says how similar coordinate i of **B** is to coordinate j of **A**.

- Activation evidence is the centred correlation over the same tokens at one site, or its mean over several
  sites, because the residual gauge is one element for the whole model.
- Weight evidence is the cosine between the columns of matrices that read from the stream or write to it. It
  needs no data, but requires that the head and neuron axes of A and B correspond, as they do for two runs
  from one base.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.alignment.moments import Moments, MomentStream
from gaugeport.charts import Chart, chart_of
from gaugeport.charts.chart import check_movable
from gaugeport.charts.tokens import check_ids
from gaugeport.streams.activations import check_sites, streams_at
from gaugeport.streams.massive import LEAVE_OUT, check_treatment, massive_tokens, without_tokens

Pair = tuple[str, str]
"""Names of the models A and B."""


def check_comparable(model_a: nn.Module, model_b: nn.Module, vocabulary: bool = True) -> tuple[Chart, Chart]:
    """Check that the residual streams of two models can be compared coordinate by coordinate.

    Args:
        model_a: model A.
        model_b: model B.
        vocabulary: also require equal vocabulary sizes.

    Returns:
        The charts of A and of B.

    Raises:
        ValueError: if family, width, number of blocks or vocabulary size differ; the message names both
            values.
    """
    chart_a, chart_b = chart_of(model_a), chart_of(model_b)
    facts: dict[str, tuple[Any, Any]] = {
        "architecture": (chart_a.model_type, chart_b.model_type),
        "residual width": (chart_a.width, chart_b.width),
        "number of blocks": (len(chart_a.blocks(model_a)), len(chart_b.blocks(model_b))),
    }
    if vocabulary:
        facts["vocabulary size"] = (_vocabulary_size(model_a), _vocabulary_size(model_b))
    for name, (of_a, of_b) in facts.items():
        if of_a != of_b:
            raise ValueError(f"A and B must have the same {name}: A has {of_a}, B has {of_b}")
    return chart_a, chart_b


def _vocabulary_size(model: nn.Module) -> int:
    return model.get_input_embeddings().weight.shape[0]  # type: ignore[operator, no-any-return]


def pair_moments(
    models: Mapping[str, nn.Module],
    pairs: Sequence[Pair],
    batches: Iterable[dict[str, Tensor]],
    sites: str | Sequence[str] = "all",
    skip_first: int = 1,
    whiten: bool = False,
    mean_free: bool = True,
    massive: str = LEAVE_OUT,
) -> dict[Pair, dict[str, Moments]]:
    """Measure the moments of pairs of models over the same batches.

    Each model runs once per batch, however many pairs it is in. Memory is O(pairs · sites · d²). Warns about
    coordinates that are constant at a site, and about having fewer tokens than coordinates.

    Args:
        models: models by name. Vocabularies may differ if all models know the ids in the batches.
        pairs: names ``(a, b)`` of the models to compare.
        batches: dicts of ``input_ids`` int64[b, t] and optionally ``attention_mask`` int64[b, t].
        sites: ``"all"`` or names of sites (:func:`gaugeport.streams.activations.check_sites`).
        skip_first: number of tokens to leave out at the start of each row.
        whiten: ZCA-whiten the activations on each side, so that coordinates are decorrelated within their own
            model. Whitening commutes with signed permutations.
        mean_free: remove the mean over coordinates on LayerNorm models; see
            :func:`gaugeport.streams.activations.streams_at`.
        massive: ``leave_out`` a token of each site where it is massive in either model of a pair
            (:mod:`gaugeport.streams.massive`), or ``keep`` it.

    Returns:
        Pair -> site (``embed``, ``block0``, ...) -> moments; their ``left_out`` counts the massive tokens.

    Raises:
        ValueError: for models that cannot be compared, activations that are not finite, or an unknown
            ``massive``.
    """
    # 1) check the arguments; whitening also needs each model's moments with itself
    check_treatment(massive)
    names = sorted({name for pair in pairs for name in pair})
    measured_pairs = [*pairs, *((name, name) for name in names)] if whiten else list(pairs)
    charts = {name: chart_of(models[name]) for name in names}
    for a, b in measured_pairs:
        check_comparable(models[a], models[b], vocabulary=False)
    first = charts[names[0]]
    chosen_sites = check_sites(sites, len(first.blocks(models[names[0]])), first)

    # 2) run every model on every batch
    streams = {
        (pair, site): MomentStream(f"{pair[0]} at {site}", f"{pair[1]} at {site}")
        for pair in measured_pairs
        for site in chosen_sites
    }
    left_out = dict.fromkeys(streams, 0)
    for batch in batches:
        rows = {
            name: streams_at(models[name], charts[name], batch, chosen_sites, skip_first, mean_free)
            for name in names
        }
        # found once per model, however many pairs it is in
        found = {
            name: {site: massive_tokens(x) for site, x in at.items() if massive == LEAVE_OUT}
            for name, at in rows.items()
        }
        for ((a, b), site), stream in streams.items():
            x_a, x_b = rows[a][site], rows[b][site]
            if massive == LEAVE_OUT:
                x_a, x_b = without_tokens([found[a][site], found[b][site]], x_a, x_b)
            stream.update(x_a, x_b)
            left_out[(a, b), site] += len(rows[a][site]) - len(x_a)
    moments: dict[Pair, dict[str, Moments]] = {pair: {} for pair in measured_pairs}
    for (pair, site), stream in streams.items():
        moments[pair][site] = replace(stream.result(), left_out=left_out[pair, site])

    # 3) warn about evidence that is weak
    _warn_of_constants(moments)
    tokens, width = next(iter(moments[measured_pairs[0]].values())).n, charts[names[0]].width
    if tokens < width:
        warnings.warn(
            f"only {tokens} tokens for {width} coordinates: correlations are noisy and margins unreliable",
            stacklevel=2,
        )
    if not whiten:
        return moments
    return {
        (a, b): {
            site: m.whitened(moments[a, a][site], moments[b, b][site]) for site, m in moments[a, b].items()
        }
        for a, b in pairs
    }


def _warn_of_constants(moments: Mapping[Pair, Mapping[str, Moments]]) -> None:
    for pair, by_site in moments.items():
        for site, at_site in by_site.items():
            for name, constant in zip(pair, at_site.constant(), strict=True):
                if constant:
                    warnings.warn(
                        f"{len(constant)} coordinate(s) of {name}, the first {constant[:5]}, are constant at "
                        f"{site}: that site cannot place them",
                        stacklevel=3,
                    )


def check_no_constant(moments: Mapping[str, Moments], sites: Sequence[str]) -> None:
    """Raise ``ValueError`` if a coordinate is constant at *every* given site, so that nothing can place it.

    Args:
        moments: site -> moments of A and B.
        sites: the sites whose evidence will be pooled.

    Raises:
        ValueError: naming the model and the coordinates.
    """
    constant_at = [moments[site].constant() for site in sites]
    for name, side in (("A", 0), ("B", 1)):
        everywhere = sorted(set.intersection(*(set(constant[side]) for constant in constant_at)))
        if everywhere:
            raise ValueError(
                f"coordinates {everywhere[:5]} of {name} ({len(everywhere)} in all) are constant at "
                f"{', '.join(sites)}: activations cannot place them; allowed: other sites, more varied "
                "batches, or evidence='weights'"
            )


def activation_evidence(moments: Mapping[str, Moments], sites: Sequence[str]) -> Tensor:
    """Return the mean correlation over sites.

    Args:
        moments: site -> moments of A and B.
        sites: the sites to average over.

    Returns:
        float64[d, d], indexed [B, A].

    Raises:
        ValueError: for a coordinate that is constant at every site.
    """
    check_no_constant(moments, sites)
    return torch.stack([moments[s].correlation() for s in sites]).mean(0)


def weight_evidence(
    model_a: nn.Module, model_b: nn.Module, token_ids: Tensor | None = None, cross: bool = False
) -> Tensor:
    """Return the mean cosine between columns of A's and B's matrices.

    Every matrix that reads from the stream or writes to it counts alike, the embedding and unembedding
    included. Warns about coordinates that are zero in every matrix.

    Args:
        model_a: model A.
        model_b: model B; its head and neuron axes must correspond to A's, as in two runs from one base.
        token_ids: int64[n], the rows of the embedding and unembedding that count; default all. Rows of tokens
            that neither run was trained on still equal those of the common base and give the answer away: a
            measurement of recovery must leave them out.
        cross: divide each matrix by its norm instead of dividing each column. Procrustes needs this, because
            normalised columns do not turn with a rotation.

    Returns:
        float64[d, d], indexed [B, A].

    Raises:
        ValueError: for models that cannot be compared, are offloaded or quantized, or have matrices that are
            missing, of different shapes, or not finite; for token ids outside a vocabulary.
    """
    # 1) check that both models have the same matrices
    chart_a, chart_b = check_comparable(model_a, model_b, vocabulary=token_ids is None)
    check_movable(chart_a, model_a)
    check_movable(chart_b, model_b)
    _check_both_tied(chart_a, chart_b)

    if token_ids is not None and token_ids.dtype != torch.bool:  # a mask cannot name a row that is not there
        check_ids(chart_a, model_a, token_ids)
        check_ids(chart_b, model_b, token_ids)

    # 2) sum the cosines over matrices, each with the stream on its last axis
    weights_a, weights_b = dict(model_a.named_parameters()), dict(model_b.named_parameters())
    total, count = torch.zeros(chart_a.width, chart_a.width, dtype=torch.float64), 0
    is_used = {side: torch.zeros(chart_a.width, dtype=torch.bool) for side in "AB"}
    for name, role, axis in chart_a.matrices():
        a, b = (w[name].detach().movedim(axis, -1).to(torch.float32) for w in (weights_a, weights_b))
        if role in ("embed", "unembed") and token_ids is not None:
            a, b = a[token_ids], b[token_ids]
        if a.shape != b.shape:
            raise ValueError(
                f"{name} has shape {tuple(weights_a[name].shape)} in A and {tuple(weights_b[name].shape)} in "
                "B: weight evidence compares models of one base; allowed otherwise: evidence='activations'"
            )
        for side, w in (("A", a), ("B", b)):
            if not bool(torch.isfinite(w).all()):
                raise ValueError(f"{name} of {side} is not finite: only finite weights can be matched")
            is_used[side] |= (w != 0).any(0).cpu()
        a, b = (w / w.norm() if cross else torch.nn.functional.normalize(w, dim=0) for w in (a, b))
        with torch.autocast(a.device.type, enabled=False):
            total += (b.T @ a).cpu().to(torch.float64)
        count += 1

    # 3) warn about coordinates that no matrix uses
    for side, used in is_used.items():
        unused = (~used).nonzero().flatten().tolist()
        if unused:
            warnings.warn(
                f"{len(unused)} coordinate(s) of {side}, the first {unused[:5]}, are 0 in every matrix: "
                "weights cannot place them",
                stacklevel=2,
            )
    return total / count


def _check_both_tied(chart_a: Chart, chart_b: Chart) -> None:
    """Raise ``ValueError`` if only one model ties its embeddings; name folding first where it untied one."""
    if chart_a.tied == chart_b.tied:
        return
    untied, tied = ("A", "B") if chart_b.tied else ("B", "A")
    chart = chart_a if untied == "A" else chart_b
    if chart.folded and chart.foldable and chart_a.folded != chart_b.folded:
        raise ValueError(
            f"{untied} is folded (every gain is 1, and folding unties the embeddings) and {tied} is not: "
            f"their weights differ by the gains. Allowed: fold_gains({tied}) first, the unfolded {untied}, "
            "or evidence='activations'"
        )
    raise ValueError(f"A and B must both tie their embeddings or neither: A {chart_a.tied}, B {chart_b.tied}")


def both(activations: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of activation and weight evidence, float64[d, d] each: both are cosines."""
    return activations + weights
