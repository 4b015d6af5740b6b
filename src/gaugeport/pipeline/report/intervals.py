"""Give the mean of a few values, one per training seed or pair of seeds, with its 95 % interval."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import betaincinv, stdtrit  # scipy.stats takes 0.3 s to import

Interval = tuple[float, float, float, int]
"""Mean, lower and upper end, and n. One value has no interval: both ends are NaN."""

LEVEL = 0.95


def is_correlation(metric: str) -> bool:
    """Return whether a metric is one correlation a seed, whose interval must stay within ±1.

    The mean correlation over latents (``firing_pearson``) is a mean like any other.
    """
    return metric.endswith(("_pearson", "_correlation")) and metric != "firing_pearson"


Pair = tuple[int, int]
"""Two seeds that one value is of."""


def interval_of(metric: str, values: Sequence[float]) -> Interval:
    """Return the mean of a metric over seeds and its interval: Fisher's for correlations, else Student's."""
    return fisher_interval(values) if is_correlation(metric) else t_interval(values)


def pairs_interval_of(metric: str, values: Mapping[Pair, float]) -> Interval:
    """Return the mean of a metric over pairs of seeds and its interval; n is the number of seeds.

    Where all pairs of some seeds are there it is :func:`jackknife_interval`, of correlations taken of
    z = artanh r. Else only the pairs count that have one seed in common, the one in most pairs (the lowest of
    several): the interval is that of :func:`interval_of` over the others, given the seed that they share.
    """
    if not _every_pair_is_there(values):
        return interval_of(metric, list(_with_one_seed(values).values()))
    if not is_correlation(metric) or not all(abs(r) < 1 for r in values.values()):
        return jackknife_interval(values)
    mean, low, high, n = jackknife_interval({pair: float(np.arctanh(r)) for pair, r in values.items()})
    return float(np.tanh(mean)), float(np.tanh(low)), float(np.tanh(high)), n


def jackknife_interval(values: Mapping[Pair, float], level: float = LEVEL) -> Interval:
    """Return the mean over pairs of seeds and its interval by the jackknife over seeds.

    Pairs that share a seed are not independent, so their number is no sample size: each seed is left out in
    turn, with every pair that it is in. The interval is Student's with one degree of freedom less than there
    are seeds. Source: Arvesen (1969), jackknifing U-statistics.

    Args:
        values: Pair of seeds -> value, for every pair of at least three seeds.
        level: Of the interval.

    Returns:
        Mean, ends, and the number of seeds.

    Raises:
        ValueError: Some pair is not there.
    """
    if not _every_pair_is_there(values):
        raise ValueError(f"expected every pair of three seeds or more, got {sorted(values)}")
    seeds = sorted({seed for pair in values for seed in pair})
    n, mean = len(seeds), float(np.mean(list(values.values())))
    without = [np.mean([v for pair, v in values.items() if seed not in pair]) for seed in seeds]
    error = float(np.sqrt((n - 1) / n * np.square(without - np.mean(without)).sum()))
    half = float(_t_quantile(level, n)) * error
    return mean, mean - half, mean + half, n


def _every_pair_is_there(values: Mapping[Pair, float]) -> bool:
    """Return whether the pairs are all those of three seeds or more."""
    seeds = {seed for pair in values for seed in pair}
    every = {frozenset(pair) for pair in itertools.combinations(seeds, 2)}
    return len(seeds) > 2 and {frozenset(pair) for pair in values} == every


def _with_one_seed(values: Mapping[Pair, float]) -> dict[Pair, float]:
    """Return the pairs of the seed that is in most of them, of several such the lowest."""
    count = Counter(seed for pair in values for seed in pair)
    shared = min(count, key=lambda seed: (-count[seed], seed))
    return {pair: value for pair, value in values.items() if shared in pair}


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of values and its t-interval."""
    x = np.asarray(values, dtype=float)
    n, mean = len(x), float(np.mean(x))
    if n < 2:
        return mean, float("nan"), float("nan"), n
    half = float(_t_quantile(level, n) * np.std(x, ddof=1) / np.sqrt(n))
    return mean, mean - half, mean + half, n


def fisher_interval(correlations: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of correlations and its interval, both taken of z = artanh r and transformed back.

    Correlations are skewed near ±1, where a t-interval of r itself can leave [−1, 1]. Where one is ±1, z is
    infinite and the interval is Student's. Source: Fisher (1921).
    """
    r = np.asarray(correlations, dtype=float)
    if not (np.abs(r) < 1).all():
        return t_interval(correlations, level)
    mean, low, high, n = t_interval(np.arctanh(r).tolist(), level)
    return float(np.tanh(mean)), float(np.tanh(low)), float(np.tanh(high)), n


def share_interval(hits: Sequence[bool], level: float = LEVEL) -> Interval:
    """Return the share of seeds of which something holds, and its exact interval.

    Source: Clopper and Pearson (1934).
    """
    n, k = len(hits), sum(hits)
    if n < 2:
        return float(k / n), float("nan"), float("nan"), n
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return k / n, low, high, n


@functools.cache  # an interval is asked for a thousand times a table, at a handful of n
def _t_quantile(level: float, n: int) -> float:
    return float(stdtrit(n - 1, 0.5 + level / 2))
