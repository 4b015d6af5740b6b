"""Compare two top-k lists: what A lists, moved by a gauge, against what B lists."""

from __future__ import annotations

from scipy import stats
from torch import Tensor

from gaugeport.groups import Element
from gaugeport.transport.directions import transport_magnitude
from gaugeport.transport.indices import transport_indices


def top_indices(score: Tensor, k: int) -> Tensor:
    """Return the indices of the largest absolute scores.

    Args:
        score: float[n].
        k: length of the list, from 1 to n.

    Returns:
        int64[k], largest first; ties keep the order of the indices.

    Raises:
        ValueError: ``k`` is below 1 or above n.
    """
    if not 1 <= k <= len(score):
        raise ValueError(f"a list of the top {k} of {len(score)}; allowed: 1 to {len(score)}")
    return score.abs().argsort(descending=True, stable=True)[:k]


def compare_lists(a: Tensor, b: Tensor, g: Element, k: int, signed: bool = False) -> dict[str, float]:
    """Compare the top-k list of A, moved by a gauge, with the top-k list of B.

    Args:
        a: float[n], scores of A.
        b: float[n], scores of B.
        g: the gauge from A to B, a signed permutation.
        k: length of the lists.
        signed: whether the scores have signs to compare.

    Returns:
        ``jaccard``: |both| / |either|.
        ``precision``: |both| / k.
        ``rank_correlation``: Spearman's, of all absolute scores.
        ``sign_agreement`` (of signed lists): the share of the moved list whose sign is the sign of ``b``
        there.

    Raises:
        ValueError: ``k`` is not allowed, or the gauge is a rotation, under which an index has no image.
    """
    listed = top_indices(a, k)
    moved = transport_indices(listed, g)
    n_common = len(set(moved.index.tolist()) & set(top_indices(b, k).tolist()))
    ranks = stats.spearmanr(transport_magnitude(a.abs(), g).numpy(), b.abs().numpy())
    agreement = {
        "jaccard": n_common / (2 * k - n_common),
        "precision": n_common / k,
        "rank_correlation": float(ranks.statistic),
    }
    if signed:
        moved_sign = moved.sign * a[listed].sign()
        agreement["sign_agreement"] = float((moved_sign == b[moved.index].sign()).double().mean())
    return agreement


def agreement_by_chance(metric: str, n: int, k: int) -> float:
    """Return the exact expectation of a metric of :func:`compare_lists` under a uniform random gauge.

    The number of common members of two random k-subsets is hypergeometric.

    Args:
        metric: ``jaccard``, ``precision``, ``rank_correlation`` or ``sign_agreement``.
        n: number of coordinates.
        k: length of the lists.
    """
    if metric == "jaccard":
        return float(sum(stats.hypergeom.pmf(m, n, k, k) * m / (2 * k - m) for m in range(k + 1)))
    return {"precision": k / n, "rank_correlation": 0.0, "sign_agreement": 0.5}[metric]
