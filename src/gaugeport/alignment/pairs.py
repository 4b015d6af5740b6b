"""Accumulate the moments of pairs of models over the batches that both have run on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from gaugeport.alignment.moments import Moments, MomentStream
from gaugeport.streams.massive import LEAVE_OUT, massive_tokens, without_tokens

Pair = tuple[str, str]
"""Names of the models A and B."""

MomentsOfPairs = Mapping[Pair, Mapping[str, Moments]]
"""Pair -> site -> moments."""


class PairedRows:
    """Moments of pairs of models at some sites. Memory is O(pairs · sites · d²)."""

    def __init__(self, pairs: Sequence[Pair], sites: Sequence[str], massive: str = LEAVE_OUT):
        """Begin with no rows.

        Args:
            pairs: names ``(a, b)`` of the models to compare.
            sites: the sites of the stream.
            massive: ``leave_out`` a token of a site where it is massive in either model of a pair, or
                ``keep`` it.
        """
        self._massive = massive
        self._streams = {
            (pair, site): MomentStream(f"{pair[0]} at {site}", f"{pair[1]} at {site}")
            for pair in pairs
            for site in sites
        }
        self._left_out = dict.fromkeys(self._streams, 0)

    def update(self, rows: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Add a batch.

        Args:
            rows: model -> site -> float[tokens, d], the same tokens for every model.
        """
        # found once per model, however many pairs it is in
        found = {
            name: {site: massive_tokens(x) for site, x in at.items() if self._massive == LEAVE_OUT}
            for name, at in rows.items()
        }
        for ((a, b), site), stream in self._streams.items():
            x_a, x_b = rows[a][site], rows[b][site]
            if self._massive == LEAVE_OUT:
                x_a, x_b = without_tokens([found[a][site], found[b][site]], x_a, x_b)
            stream.update(x_a, x_b)
            self._left_out[(a, b), site] += len(rows[a][site]) - len(x_a)

    def result(self) -> dict[Pair, dict[str, Moments]]:
        """Return pair -> site -> moments of all rows so far; ``left_out`` counts the massive tokens.

        Raises ``ValueError`` if there are none.
        """
        moments: dict[Pair, dict[str, Moments]] = {}
        for (pair, site), stream in self._streams.items():
            at = replace(stream.result(), left_out=self._left_out[pair, site])
            moments.setdefault(pair, {})[site] = at
        return moments


def moments_of_streams(
    streams: Mapping[str, Iterable[Mapping[str, Tensor]]],
    pairs: Sequence[Pair],
    sites: Sequence[str],
    whiten: bool = False,
    massive: str = LEAVE_OUT,
) -> dict[Pair, dict[str, Moments]]:
    """Measure the moments of pairs of models from their streams on the same batches.

    Args:
        streams: model -> its streams, batch by batch, site -> float[tokens, d].
        pairs, sites, whiten, massive: as in :func:`gaugeport.alignment.evidence.pair_moments`.

    Raises:
        ValueError: for streams of different numbers of batches or tokens, or that are not finite.
    """
    # 1) accumulate; whitening also needs each model's moments with itself
    names = sorted({name for pair in pairs for name in pair})
    paired = PairedRows([*pairs, *((name, name) for name in names if whiten)], sites, massive)
    for rows in zip(*(streams[name] for name in names), strict=True):
        paired.update(dict(zip(names, rows, strict=True)))
    moments = paired.result()

    # 2) warn about evidence that is weak
    warn_of_weak_moments(moments)
    if not whiten:
        return moments
    return {
        (a, b): {
            site: m.whitened(moments[a, a][site], moments[b, b][site]) for site, m in moments[a, b].items()
        }
        for a, b in pairs
    }


def warn_of_weak_moments(moments: MomentsOfPairs) -> None:
    """Warn about coordinates that are constant at a site, and about fewer tokens than coordinates."""
    for pair, by_site in moments.items():
        for site, at_site in by_site.items():
            for name, constant in zip(pair, at_site.constant(), strict=True):
                if constant:
                    warnings.warn(
                        f"{len(constant)} coordinate(s) of {name}, the first {constant[:5]}, are constant at "
                        f"{site}: that site cannot place them",
                        stacklevel=3,
                    )
    first = next(iter(next(iter(moments.values())).values()))
    tokens, width = first.n, len(first.mean_a)
    if tokens < width:
        warnings.warn(
            f"only {tokens} tokens for {width} coordinates: correlations are noisy and margins unreliable",
            stacklevel=3,
        )
