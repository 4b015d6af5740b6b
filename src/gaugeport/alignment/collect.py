"""Run two models on the same batches and keep what alignment reads (:class:`Evidence`)."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gaugeport.alignment.comparable import BLOCKS, check_same, facts_of
from gaugeport.alignment.evidence import StreamMatrices, WeightForm, matrices_of, weight_similarities
from gaugeport.alignment.pair_evidence import Evidence
from gaugeport.alignment.pairs import PairedRows, warn_of_weak_moments
from gaugeport.alignment.tokenizers import check_tokenizers
from gaugeport.charts import Chart, chart_of
from gaugeport.streams.activations import check_sites, streams_at
from gaugeport.streams.kept import KeptStreams
from gaugeport.streams.massive import LEAVE_OUT, check_treatment
from gaugeport.utils.progress import Progress

Model = nn.Module | Callable[[], nn.Module]
"""A model, or a function that loads it."""

Batches = Iterable[dict[str, Tensor]]
Rows = dict[str, Tensor]
"""Site -> float32[tokens, d]."""

PAIR = ("A", "B")


def evidence(
    model_a: Model,
    model_b: Model,
    batches: Batches | None = None,
    *,
    sites: str | Sequence[str] = "all",
    weights: bool = False,
    skip_first: int = 1,
    token_ids: Tensor | None = None,
    tokenizers: tuple[object, object] | None = None,
    massive: str = LEAVE_OUT,
    progress: Progress | None = None,
) -> Evidence:
    """Run two models once and keep what alignment reads, for any group, matcher and choice of sites.

    ``gaugeport.align(evidence, ...)`` is then a matter of matching alone, and gives what ``align`` of the two
    models gives.

    Args:
        model_a: causal language model A, or a function that loads it.
        model_b: causal language model B of the same architecture and width, or a function that loads it. If
            either is a function, one model at a time is in memory (of those that are loaded here): A's
            streams are kept in float32 files in the system's temporary folder, 4 bytes per token, site and
            coordinate, and read through memory maps; the files are deleted at the end, and after an error.
        batches: dicts of ``input_ids`` int64[b, t] and optionally ``attention_mask`` int64[b, t]; None for
            weights alone.
        sites: ``"all"``, or names of sites (:func:`gaugeport.streams.activations.check_sites`).
        weights: also compare the weights. This requires runs from one base.
        skip_first: number of tokens to leave out at the start of each row, massive or not.
        token_ids: int64[n], the vocabulary rows that count as weight evidence, e.g. those seen in training.
        tokenizers: A's and B's tokenizers, to check that they encode texts to the same ids.
        massive: ``leave_out`` tokens whose norm at a site is massive in either model, or ``keep`` them.
        progress: called as ``progress(done, total, what)`` after every batch and matrix
            (:mod:`gaugeport.utils.progress`).

    Raises:
        ValueError: for neither batches nor weights, models that cannot be compared, unknown names,
            activations or weights that are not finite, token ids that a model does not know, rows that are
            longer than its positions, or ``token_ids`` without weights.
        TypeError: for batches that are not dicts of tensors.
    """
    if batches is None and not weights:
        raise ValueError("evidence needs batches of tokens, or weights=True")
    if token_ids is not None and not weights:
        raise ValueError("token_ids select rows of weight evidence; allowed: weights=True")
    if tokenizers is not None:
        check_tokenizers(*tokenizers)
    return collect(
        model_a,
        model_b,
        batches,
        sites,
        skip_first=skip_first,
        massive=massive,
        mean_free=(True, False),
        forms=(False, True) if weights else (),
        token_ids=token_ids,
        progress=progress,
    )


def collect(
    model_a: Model,
    model_b: Model,
    batches: Batches | None,
    sites: str | Sequence[str],
    *,
    mean_free: Collection[bool],
    forms: Sequence[bool] = (),
    skip_first: int = 1,
    massive: str = LEAVE_OUT,
    token_ids: Tensor | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Collect a part of the evidence.

    Args:
        model_a, model_b, batches, sites, skip_first, massive, token_ids, progress: as in :func:`evidence`.
        mean_free: which moments of LayerNorm models to keep: without (True) or with (False) each token's
            mean over coordinates.
        forms: which forms of weight evidence to keep: cosines (False), cross moments (True).

    Raises:
        ValueError, TypeError: as :func:`evidence`.
    """
    check_treatment(massive)
    one_at_a_time = not (isinstance(model_a, nn.Module) and isinstance(model_b, nn.Module))
    if batches is not None and one_at_a_time:
        batches = list(batches)  # each model needs them from the start
    run = _Run(sites, skip_first, token_ids, bool(forms))
    with tempfile.TemporaryDirectory(prefix="gaugeport-") as folder:
        # 1) get hold of both models, or of what A leaves behind
        if one_at_a_time:
            side_a = run.keep(_loaded(model_a), batches, Path(folder), progress)
            gc.collect()  # a model may be in a cycle with its hooks
            side_b = run.side(_loaded(model_b), batches)
        else:
            first, second = (None, None) if batches is None else tee(batches)
            side_a, side_b = run.side(_loaded(model_a), first), run.side(_loaded(model_b), second)
        check_same(side_a.facts, side_b.facts)

        # 2) measure the moments over all batches
        is_layer = side_a.chart.norm == "layer"
        kinds = mean_free if is_layer else [True]
        streams = {free: PairedRows([PAIR], side_a.sites, massive) for free in kinds}
        what, total = "running B" if one_at_a_time else "running A and B", _length(batches)
        for done, rows in enumerate(zip(side_a.streams, side_b.streams, strict=True), 1):
            here = _on_one_device(*rows)
            for free, stream in streams.items():
                seen = [_centred(x) if is_layer and free else x for x in here]
                stream.update(dict(zip(PAIR, seen, strict=True)))
            if progress is not None:
                progress(done, total, what)
        moments = {} if batches is None else {free: s.result()[PAIR] for free, s in streams.items()}
        if moments:
            warn_of_weak_moments({PAIR: next(iter(moments.values()))})

        # 3) compare the weights
        compared: dict[bool, Tensor] = {}
        if side_a.matrices is not None and side_b.matrices is not None:
            wanted = [WeightForm(cross, token_ids) for cross in forms]
            values = weight_similarities(side_a.matrices, side_b.matrices, wanted, progress)
            compared = dict(zip(forms, values, strict=True))
    return Evidence(
        side_a.chart,
        side_b.chart,
        side_a.facts[BLOCKS],
        moments.get(True, {}),
        moments.get(False if is_layer else True, {}),
        compared.get(False),
        compared.get(True),
    )


@dataclass(frozen=True)
class _Side:
    """One model's part in the evidence, read from the model itself or from what it left in files."""

    chart: Chart
    facts: dict[str, Any]
    sites: list[str]
    streams: Iterable[Rows]
    """The streams of every batch, with each token's mean."""
    matrices: StreamMatrices | None


@dataclass(frozen=True)
class _Run:
    """What to read from each model."""

    sites: str | Sequence[str]
    skip_first: int
    token_ids: Tensor | None
    weights: bool

    def side(self, model: nn.Module, batches: Batches | None) -> _Side:
        """Return a model's part. The model runs on a batch when that batch is asked for."""
        chart = chart_of(model)
        blocks = len(chart.blocks(model))
        sites = [] if batches is None else check_sites(self.sites, blocks, chart)
        streams = (
            streams_at(model, chart, batch, sites, self.skip_first, mean_free=False)
            for batch in batches or ()
        )
        return _Side(
            chart,
            facts_of(model, chart, vocabulary=self.weights and self.token_ids is None),
            sites,
            streams,
            matrices_of(model, self.token_ids) if self.weights else None,
        )

    def keep(
        self, model: nn.Module, batches: Batches | None, folder: Path, progress: Progress | None
    ) -> _Side:
        """Run a model on all batches, and return its part as files, so that the model can go."""
        live = self.side(model, batches)
        kept = KeptStreams(folder, live.sites)
        for done, rows in enumerate(live.streams, 1):
            kept.append(rows)
            if progress is not None:
                progress(done, _length(batches), "running A")
        matrices = None
        if live.matrices is not None:
            names = [name for name, _, _ in live.chart.matrices()]
            path = folder / "matrices.safetensors"
            save_file({name: live.matrices.read(name).cpu().contiguous() for name in names}, path)
            file = safe_open(path, framework="pt")
            matrices = StreamMatrices(live.chart, file.get_tensor)
        return replace(live, streams=kept, matrices=matrices)


def _on_one_device(a: Rows, b: Rows) -> tuple[Rows, Rows]:
    """Return both models' streams on B's device."""
    return {site: x.to(b[site].device) for site, x in a.items()}, b


def _centred(streams: Rows) -> Rows:
    """Return streams without each token's mean over coordinates."""
    return {site: x - x.mean(-1, keepdim=True) for site, x in streams.items()}


def _loaded(model: Model) -> nn.Module:
    if not callable(model):
        raise TypeError(f"expected a model, or a function that loads one, got a {type(model).__name__}")
    return model if isinstance(model, nn.Module) else model()


def _length(batches: Batches | None) -> int:
    return len(batches) if isinstance(batches, Sized) else 0
