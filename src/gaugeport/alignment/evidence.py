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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee

import torch
from torch import Tensor, nn

from gaugeport.alignment.comparable import check_both_tied, check_comparable
from gaugeport.alignment.moments import Moments
from gaugeport.alignment.pairs import Pair, moments_of_streams
from gaugeport.charts import Chart, chart_of
from gaugeport.charts.chart import check_movable
from gaugeport.charts.tokens import check_ids
from gaugeport.streams.activations import check_sites, streams_at
from gaugeport.streams.massive import LEAVE_OUT, check_treatment
from gaugeport.utils.progress import Progress


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
    # 1) check the arguments
    check_treatment(massive)
    names = sorted({name for pair in pairs for name in pair})
    for a, b in [*pairs, *((name, name) for name in names)]:
        check_comparable(models[a], models[b], vocabulary=False)
    chart = chart_of(models[names[0]])
    chosen_sites = check_sites(sites, len(chart.blocks(models[names[0]])), chart)

    # 2) run every model on every batch
    streams = {
        name: streams_on(models[name], mine, chosen_sites, skip_first, mean_free)
        for name, mine in zip(names, tee(batches, len(names)), strict=True)
    }
    return moments_of_streams(streams, pairs, chosen_sites, whiten, massive)


def streams_on(
    model: nn.Module,
    batches: Iterable[dict[str, Tensor]],
    sites: Sequence[str],
    skip_first: int = 1,
    mean_free: bool = True,
) -> Iterator[dict[str, Tensor]]:
    """Run a model on batches, one whenever the next is asked for: site -> float[tokens, d].

    The arguments are those of :func:`gaugeport.streams.activations.streams_at`.
    """
    chart = chart_of(model)
    for batch in batches:
        yield streams_at(model, chart, batch, sites, skip_first, mean_free)


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


def check_varies(moments: Mapping[str, Moments], sites: Sequence[str]) -> None:
    """Raise ``ValueError`` if the stream of A or B is the same for all tokens at one of the sites."""
    for site in sites:
        for name, square in (("A", moments[site].square_a), ("B", moments[site].square_b)):
            if not float(square.sum()) > 0:
                raise ValueError(
                    f"{name}'s stream does not vary at {site}: it has no variance to explain or to turn; "
                    "allowed: other sites, or more varied batches"
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
    model_a: nn.Module,
    model_b: nn.Module,
    token_ids: Tensor | None = None,
    cross: bool = False,
    progress: Progress | None = None,
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
        progress: told after each matrix.

    Returns:
        float64[d, d], indexed [B, A].

    Raises:
        ValueError: for models that cannot be compared, are offloaded or quantized, or have matrices that are
            missing, of different shapes, or not finite; for token ids outside a vocabulary.
    """
    check_comparable(model_a, model_b, vocabulary=token_ids is None)
    sides = (matrices_of(model_a, token_ids), matrices_of(model_b, token_ids))
    return weight_similarities(*sides, [WeightForm(cross, token_ids)], progress)[0]


@dataclass(frozen=True, eq=False)
class WeightForm:
    """What weight evidence is to be made of: the arguments of :func:`weight_evidence`."""

    cross: bool = False
    token_ids: Tensor | None = None


@dataclass(frozen=True)
class StreamMatrices:
    """The matrices of one model that read from the stream or write to it, wherever they are kept."""

    chart: Chart
    read: Callable[[str], Tensor]
    """Return a matrix by the name of its parameter."""


def matrices_of(model: nn.Module, token_ids: Tensor | None = None) -> StreamMatrices:
    """Return the matrices of a model in memory.

    Raises ``ValueError`` if it is offloaded or quantized, or for token ids outside its vocabulary.
    """
    chart = chart_of(model)
    check_movable(chart, model)
    if token_ids is not None and token_ids.dtype != torch.bool:  # a mask cannot name a row that is not there
        check_ids(chart, model, token_ids)
    parameters = dict(model.named_parameters())
    return StreamMatrices(chart, lambda name: parameters[name].detach())


def weight_similarities(
    side_a: StreamMatrices,
    side_b: StreamMatrices,
    forms: Sequence[WeightForm],
    progress: Progress | None = None,
) -> list[Tensor]:
    """Return weight evidence in several forms, from one pass over the matrices.

    Args:
        side_a: the matrices of A.
        side_b: those of B.
        forms: what to return. Forms that differ in ``token_ids`` share all but the vocabulary's matrices.
        progress: told after each matrix.

    Returns:
        float64[d, d] for each form, indexed [B, A].

    Raises:
        ValueError: as :func:`weight_evidence`.
    """
    check_both_tied(side_a.chart, side_b.chart)
    # 1) sum the cosines over matrices, each with the stream on its last axis
    width, matrices = side_a.chart.width, list(side_a.chart.matrices())
    totals = [torch.zeros(width, width, dtype=torch.float64) for _ in forms]
    is_used = {side: torch.zeros(width, dtype=torch.bool) for side in "AB"}
    for done, (name, role, axis) in enumerate(matrices, 1):
        stored_a, stored_b = side_a.read(name), side_b.read(name)
        b = stored_b.movedim(axis, -1).to(torch.float32)
        a = stored_a.movedim(axis, -1).to(b.device, torch.float32)
        of_all_rows: dict[bool, Tensor] = {}
        for total, form in zip(totals, forms, strict=True):
            rows = form.token_ids if role in ("embed", "unembed") else None
            if rows is None and form.cross in of_all_rows:
                total += of_all_rows[form.cross]
                continue
            x, y = (a, b) if rows is None else (a[rows], b[rows])
            if x.shape != y.shape:
                raise ValueError(
                    f"{name} has shape {tuple(stored_a.shape)} in A and {tuple(stored_b.shape)} in B: "
                    "weight evidence compares models of one base; allowed otherwise: evidence='activations'"
                )
            for side, w in (("A", x), ("B", y)):
                if not bool(torch.isfinite(w).all()):
                    raise ValueError(f"{name} of {side} is not finite: only finite weights can be matched")
                is_used[side] |= (w != 0).any(0).cpu()
            product = _column_products(x, y, form.cross)
            total += product
            if rows is None:
                of_all_rows[form.cross] = product
        if progress is not None:
            progress(done, len(matrices), "weights")

    # 2) warn about coordinates that no matrix uses
    for side, used in is_used.items():
        unused = (~used).nonzero().flatten().tolist()
        if unused:
            warnings.warn(
                f"{len(unused)} coordinate(s) of {side}, the first {unused[:5]}, are 0 in every matrix: "
                "weights cannot place them",
                stacklevel=3,
            )
    return [total / len(matrices) for total in totals]


def _column_products(x: Tensor, y: Tensor, cross: bool) -> Tensor:
    """Return the inner products of the columns of y and x, float64[d, d]: cosines, or ``cross`` moments."""
    x, y = (w / w.norm() if cross else torch.nn.functional.normalize(w, dim=0) for w in (x, y))
    with torch.autocast(x.device.type, enabled=False):
        return (y.T @ x).cpu().to(torch.float64)


def both(activations: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of activation and weight evidence, float64[d, d] each: both are cosines."""
    return activations + weights
