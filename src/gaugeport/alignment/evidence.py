"""Evidence for a gauge: d×d matrices C with ``C[i, j]`` = similarity of coordinate i of **B** with coordinate j of **A**.

Activation evidence is the centred correlation over the same tokens at one site, or summed over sites (the residual
gauge is one element for the whole model). Weight evidence is the cosine between the columns of matrices that read
from or write to the stream; it needs no data, and assumes that the head and neuron axes of A and B correspond, as
they do for two runs from one base.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.alignment.moments import Moments, MomentStream
from gaugeport.charts import Chart, chart_of
from gaugeport.charts.chart import check_movable
from gaugeport.streams.activations import check_sites, streams_at

Pair = tuple[str, str]


def check_comparable(model_a: nn.Module, model_b: nn.Module, vocabulary: bool = True) -> tuple[Chart, Chart]:
    """The charts of two models whose residual streams can be compared coordinate by coordinate.

    Raises ``ValueError`` naming what differs: family, width, number of blocks, or (``vocabulary``) vocabulary size.
    """
    a, b = chart_of(model_a), chart_of(model_b)
    facts: dict[str, list[Any]] = {
        "architecture": [c.model_type for c in (a, b)],
        "residual width": [c.width for c in (a, b)],
        "number of blocks": [len(c.blocks(m)) for c, m in ((a, model_a), (b, model_b))],
    }
    if vocabulary:
        facts["vocabulary size"] = [m.get_input_embeddings().weight.shape[0] for m in (model_a, model_b)]  # type: ignore[operator]
    for name, (of_a, of_b) in facts.items():
        if of_a != of_b:
            raise ValueError(f"A and B must have the same {name}: A has {of_a}, B has {of_b}")
    return a, b


def check_tokenizers(tokenizer_a: object, tokenizer_b: object) -> None:
    """Raises ``ValueError`` unless both tokenizers map the same strings to the same ids."""
    vocab_a, vocab_b = (t.get_vocab() for t in (tokenizer_a, tokenizer_b))  # type: ignore[attr-defined]
    differing = sorted(t for t in vocab_a.keys() | vocab_b.keys() if vocab_a.get(t) != vocab_b.get(t))
    if differing:
        raise ValueError(
            f"A and B must share a tokenizer (their activations are compared token by token); {len(differing)} entries "
            f"differ, the first {differing[:3]}"
        )


def pair_moments(
    models: Mapping[str, nn.Module],
    pairs: Sequence[Pair],
    batches: Iterable[dict[str, Tensor]],
    sites: str | Sequence[str] = "all",
    skip_first: int = 1,
    whiten: bool = False,
    mean_free: bool = True,
) -> dict[Pair, dict[str, Moments]]:
    """Moments of each pair ``(a, b)`` of named models over the same batches, by site.

    ``whiten`` gives those of activations that are ZCA-whitened on each side: correlations between coordinates that are
    decorrelated within their own model. Whitening commutes with signed permutations.

    Models may differ in vocabulary where the batches use what they share. ``mean_free``: see
    :func:`gaugeport.streams.activations.streams_at`.

    One forward pass per model and batch, however many pairs share it. Memory O(pairs · sites · d²). Warns when there
    are fewer tokens than coordinates; raises ``ValueError`` on incomparable models and on activations that are not finite.
    """
    asked, names = pairs, sorted({name for pair in pairs for name in pair})
    pairs = [*asked, *((name, name) for name in names)] if whiten else asked
    charts = {name: chart_of(models[name]) for name in names}
    for a, b in pairs:
        check_comparable(models[a], models[b], vocabulary=False)
    wanted = check_sites(sites, len(charts[names[0]].blocks(models[names[0]])))
    streams = {(p, s): MomentStream(f"{p[0]} at {s}", f"{p[1]} at {s}") for p in pairs for s in wanted}
    for batch in batches:
        rows = {
            name: streams_at(models[name], charts[name], batch, wanted, skip_first, mean_free)
            for name in names
        }
        for (a, b), site in streams:
            streams[(a, b), site].update(rows[a][site], rows[b][site])
    found = {pair: {site: streams[pair, site].result() for site in wanted} for pair in pairs}
    _warn_of_constants(found)
    tokens, width = next(iter(found[pairs[0]].values())).n, charts[names[0]].width
    if tokens < width:
        warnings.warn(
            f"only {tokens} tokens for {width} coordinates: correlations are noisy and margins unreliable",
            stacklevel=2,
        )
    if not whiten:
        return found
    return {
        (a, b): {site: m.whitened(found[a, a][site], found[b, b][site]) for site, m in found[a, b].items()}
        for a, b in asked
    }


def _warn_of_constants(found: Mapping[Pair, Mapping[str, Moments]]) -> None:
    for (a, b), by_site in found.items():
        for site, moments in by_site.items():
            for name, dead in zip((a, b), moments.constant(), strict=True):
                if dead:
                    warnings.warn(
                        f"{len(dead)} coordinate(s) of {name}, the first {dead[:5]}, are constant at {site}: "
                        "that site cannot place them",
                        stacklevel=3,
                    )


def check_no_constant(moments: Mapping[str, Moments], sites: Sequence[str]) -> None:
    """Raises ``ValueError`` naming a coordinate that is constant at *every* given site: nothing there can place it."""
    dead_a = set.intersection(*(set(moments[s].constant()[0]) for s in sites))
    dead_b = set.intersection(*(set(moments[s].constant()[1]) for s in sites))
    for name, dead in (("A", dead_a), ("B", dead_b)):
        if dead:
            raise ValueError(
                f"coordinates {sorted(dead)[:5]} of {name} ({len(dead)} in all) are constant at {', '.join(sites)}: "
                "activations cannot place them; allowed: other sites, more varied batches, or evidence='weights'"
            )


def activation_evidence(moments: Mapping[str, Moments], sites: Sequence[str]) -> Tensor:
    """Correlation pooled over ``sites`` (their mean), float64[d, d]. Raises on coordinates constant at all of them."""
    check_no_constant(moments, sites)
    return torch.stack([moments[s].correlation() for s in sites]).mean(0)


def weight_evidence(
    model_a: nn.Module, model_b: nn.Module, token_ids: Tensor | None = None, cross: bool = False
) -> Tensor:
    """Mean over the stream's matrices of the cosine between their columns, float64[d, d].

    Reads, writes, embedding and unembedding count alike. ``token_ids`` restricts the (un)embedding to those rows:
    rows of tokens that neither run was trained on are exact fingerprints of a common base, so an honest measurement
    of recovery leaves them out. ``cross`` divides by the norms of whole matrices, not of columns: what Procrustes
    wants, since normalised columns do not rotate along.

    Warns of coordinates that no matrix reads or writes. Raises ``ValueError`` on incomparable models, on offloaded or
    quantized ones, and on matrices that are missing, of another shape or not finite.
    """
    chart, chart_b = check_comparable(model_a, model_b, vocabulary=token_ids is None)
    check_movable(chart, model_a)
    check_movable(chart_b, model_b)
    if chart.tied != chart_b.tied:
        raise ValueError(
            f"A and B must both tie their embeddings or neither: A {chart.tied}, B {chart_b.tied}"
        )
    weights_a, weights_b = dict(model_a.named_parameters()), dict(model_b.named_parameters())
    total, count = torch.zeros(chart.width, chart.width, dtype=torch.float64), 0
    used = {side: torch.zeros(chart.width, dtype=torch.bool) for side in "AB"}
    for name, role, axis in chart.matrices():
        a, b = (w[name].detach().movedim(axis, -1).to(torch.float32) for w in (weights_a, weights_b))
        if role in ("embed", "unembed") and token_ids is not None:
            a, b = a[token_ids], b[token_ids]
        if a.shape != b.shape:
            raise ValueError(
                f"{name} has shape {tuple(weights_a[name].shape)} in A and {tuple(weights_b[name].shape)} in B: weight "
                "evidence compares two models of one base; allowed otherwise: evidence='activations'"
            )
        for side, w in (("A", a), ("B", b)):
            if not bool(torch.isfinite(w).all()):
                raise ValueError(f"{name} of {side} is not finite: only finite weights can be matched")
            used[side] |= (w != 0).any(0).cpu()
        a, b = (w / w.norm() if cross else torch.nn.functional.normalize(w, dim=0) for w in (a, b))
        with torch.autocast(a.device.type, enabled=False):
            total += (b.T @ a).cpu().to(torch.float64)
        count += 1
    for side, here in used.items():
        if not bool(here.all()):
            dead = (~here).nonzero().flatten().tolist()
            warnings.warn(
                f"{len(dead)} coordinate(s) of {side}, the first {dead[:5]}, are 0 in every matrix: weights cannot place them",
                stacklevel=2,
            )
    return total / count


def both(activations: Tensor, weights: Tensor) -> Tensor:
    """Activation and weight evidence together: their plain sum, since both are cosines."""
    return activations + weights
