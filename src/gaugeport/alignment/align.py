"""Recover the gauge between two models."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from gaugeport.alignment.collect import collect
from gaugeport.alignment.comparable import check_comparable
from gaugeport.alignment.doubt import doubt
from gaugeport.alignment.fit import AFFINE, EVIDENCE, check_abstain, check_affine, choose, fit, linear_group
from gaugeport.alignment.matchers import MATCHERS
from gaugeport.alignment.pair_evidence import Evidence, common_group
from gaugeport.alignment.result import Alignment
from gaugeport.alignment.tokenizers import check_tokenizers
from gaugeport.streams.activations import check_sites
from gaugeport.streams.massive import LEAVE_OUT, check_treatment
from gaugeport.utils.progress import Progress


def align(
    model_a: nn.Module | Evidence,
    model_b: nn.Module | None = None,
    batches: Iterable[dict[str, Tensor]] | None = None,
    group: str | None = None,
    evidence: str | None = None,
    sites: str | Sequence[str] = "all",
    *,
    matcher: str | None = None,
    skip_first: int = 1,
    token_ids: Tensor | None = None,
    tokenizers: tuple[object, object] | None = None,
    allow_larger: bool = False,
    abstain: float | None = None,
    massive: str = LEAVE_OUT,
    progress: Progress | None = None,
) -> Alignment:
    """Recover the gauge that carries A's residual coordinates to B's.

    Models run in their own precision: an autocast context around the call has no effect.

    Args:
        model_a: causal language model A; or the :class:`Evidence` of a pair, which is matched without running
            a model (then ``model_b``, ``batches``, ``skip_first``, ``token_ids``, ``tokenizers`` and
            ``massive`` are left out).
        model_b: causal language model B, of the same architecture and width. The vocabularies must be equal
            for weight evidence without ``token_ids``; for activations both models must know the ids in the
            batches.
        batches: dicts of ``input_ids`` int64[b, t] and optionally ``attention_mask`` int64[b, t]. Required
            unless ``evidence="weights"``.
        group: name of the gauge group. Default: the charts' exact group, the smaller one if A's and B's
            differ. ``"affine"`` is a rotation with one scale and a shift (centred Procrustes), for one site;
            its matcher fits the rotation.
        evidence: ``"activations"``, ``"weights"`` or ``"both"``. Weights require runs from one base, because
            matrices are compared row by row, so head and neuron axes must correspond
            (:func:`gaugeport.align_weights` finds their order). Default: activations, unless an
            :class:`Evidence` has only weights.
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
        progress: called as ``progress(done, total, what)`` after every batch and matrix
            (:mod:`gaugeport.utils.progress`).

    Returns:
        The recovered gauge with its margins. A warning says so if they look like those of unrelated models,
        with what may be wrong and what would help (:mod:`gaugeport.alignment.doubt`).

    Raises:
        ValueError: for an unknown name, a matcher that does not recover elements of the group, models that
            cannot be compared, a group larger than the chart's (unless ``allow_larger``), ``token_ids``
            without weight evidence, a coordinate that is constant at every site, activations that are not
            finite, a token id without an embedding, rows longer than a model's positions, an ``abstain`` that
            is not finite or leaves no coordinate, an affine gauge of several sites, or what an
            :class:`Evidence` does not hold.
        TypeError: for batches that are not dicts of tensors, or no ``model_b``.
    """
    alignment, read = aligned_from(
        model_a,
        model_b,
        batches,
        group,
        evidence,
        sites,
        matcher=matcher,
        skip_first=skip_first,
        token_ids=token_ids,
        tokenizers=tokenizers,
        allow_larger=allow_larger,
        abstain=abstain,
        massive=massive,
        progress=progress,
    )
    if reason := doubt(alignment, read):
        warnings.warn(reason, stacklevel=2)
    return alignment


def aligned_from(
    model_a: nn.Module | Evidence,
    model_b: nn.Module | None,
    batches: Iterable[dict[str, Tensor]] | None,
    group: str | None,
    evidence: str | None,
    sites: str | Sequence[str],
    *,
    matcher: str | None = None,
    skip_first: int = 1,
    token_ids: Tensor | None = None,
    tokenizers: tuple[object, object] | None = None,
    allow_larger: bool = False,
    abstain: float | None = None,
    massive: str = LEAVE_OUT,
    progress: Progress | None = None,
) -> tuple[Alignment, Evidence]:
    """Return what :func:`align` returns, and the evidence that it was matched from."""
    # 1) check the arguments, before a batch is read
    if evidence is not None and evidence not in EVIDENCE:
        raise ValueError(f"unknown evidence {evidence!r}; allowed: {', '.join(EVIDENCE)}")
    check_abstain(abstain)
    check_treatment(massive)
    if isinstance(model_a, Evidence):
        options = {"model_b": model_b, "batches": batches, "token_ids": token_ids, "tokenizers": tokenizers}
        changed = {"skip_first": skip_first != 1, "massive": massive != LEAVE_OUT}
        _refuse(k for k, given in ({k: v is not None for k, v in options.items()} | changed).items() if given)
        kind = evidence or ("activations" if model_a.sites else "weights")
        group, matcher = choose(group, matcher, model_a.group, model_a.chart_a, allow_larger)
        ev = model_a
    else:
        if model_b is None:
            raise TypeError("align needs model_b, unless its first argument is an Evidence")
        kind = evidence or "activations"
        charts = check_comparable(model_a, model_b, vocabulary=kind != "activations" and token_ids is None)
        if tokenizers is not None:
            check_tokenizers(*tokenizers)
        group, matcher = choose(group, matcher, common_group(*charts), charts[0], allow_larger)
        if token_ids is not None and kind == "activations":
            raise ValueError(
                "token_ids select rows of weight evidence; allowed: evidence='weights' or 'both'"
            )
        if kind != "weights" and batches is None:
            raise ValueError(
                f"evidence={kind!r} needs batches of tokens; allowed without batches: evidence='weights'"
            )
        n_blocks = len(charts[0].blocks(model_a))
        check_affine(group, kind, [] if kind == "weights" else check_sites(sites, n_blocks, charts[0]))

        # 2) collect no more than this fit reads
        mean_free = {linear_group(group, charts[0]) != "mean_preserving_orthogonal"}
        ev = collect(
            model_a,
            model_b,
            None if kind == "weights" else batches,
            sites,
            mean_free=mean_free | {True} if group == AFFINE else mean_free,
            forms=() if kind == "activations" else (MATCHERS[matcher].reads_cross_moments,),
            skip_first=skip_first,
            massive=massive,
            token_ids=token_ids,
            progress=progress,
        )

    # 3) match
    return fit(ev, group, matcher, kind, sites, abstain), ev


def _refuse(given: Iterable[str]) -> None:
    """Raise ``ValueError`` for arguments that are for running models, if there are any."""
    if names := ", ".join(given):
        raise ValueError(
            f"align of an Evidence takes no {names}, because no model runs; give it to gaugeport.evidence. "
            "Allowed: group, evidence, sites, matcher, allow_larger, abstain"
        )
