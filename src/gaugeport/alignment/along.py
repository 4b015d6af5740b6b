"""Recover the gauge between two runs along their checkpoints (paper A's trajectory route)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from gaugeport.alignment.align import aligned_from
from gaugeport.alignment.doubt import doubt
from gaugeport.alignment.result import Alignment, check_some_kept
from gaugeport.alignment.walk import compose_links, reporting, weakest
from gaugeport.utils.progress import Progress


def align_along(
    models: Sequence[nn.Module | Callable[[], nn.Module]],
    batches: Iterable[dict[str, Tensor]] | None = None,
    group: str | None = None,
    evidence: str | None = None,
    sites: str | Sequence[str] = "all",
    *,
    progress: Progress | None = None,
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
        progress: called as ``progress(done, total, what)``, where ``what`` names the link.
        **options: further arguments of :func:`align`.

    Returns:
        The alignment of the first model with the last; its ``links`` are the local ones. One warning names
        the weakest link, if there are any that look like unrelated models.

    Raises:
        ValueError: for fewer than two models, and as :func:`align`.
    """
    if len(models) < 2:
        raise ValueError(f"expected at least two checkpoints in a walk, got {len(models)}")
    batches = None if batches is None else list(batches)  # an iterator would be used up by the first link
    here = _loaded(models[0])
    links: list[Alignment] = []
    doubts: list[str | None] = []
    for next_model in models[1:]:
        there = _loaded(next_model)
        report = None if progress is None else reporting(progress, len(links) + 1, len(models) - 1)
        link, read = aligned_from(here, there, batches, group, evidence, sites, progress=report, **options)
        links.append(link)
        doubts.append(doubt(link, read, in_walk=True))
        here = there
    if reason := weakest(links, doubts):
        warnings.warn(reason, stacklevel=2)
    total = compose_links(links)
    check_some_kept(total)
    return total


def _loaded(model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    return model if isinstance(model, nn.Module) else model()
