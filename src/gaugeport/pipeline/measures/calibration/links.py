"""Recover the gauge of a link between two models under every setting, in the coordinates that they share.

A random gauge q is planted on every model, so that ties do not resolve to the truth. What is kept of a
recovered gauge ĝ is its *residual* ``q_B⁻¹ ∘ ĝ ∘ q_A``: the identity where ĝ is right, whatever was planted.
Residuals compose along a walk as gauges do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import fmean

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gaugeport.alignment.evidence import weight_evidence
from gaugeport.alignment.matchers import match, matched_margins
from gaugeport.alignment.moments import Moments
from gaugeport.alignment.routes import Node
from gaugeport.charts import chart_of
from gaugeport.groups import SignedPermutation, compose
from gaugeport.pipeline.measures.calibration.evidence import WEIGHTS, Setting, moments_at
from gaugeport.pipeline.measures.calibration.text import Streams, Text
from gaugeport.pipeline.measures.planted_evidence import relabel_evidence
from gaugeport.pipeline.measures.sign_ceiling import plant_with_positive_share
from gaugeport.utils.files import write_json
from gaugeport.utils.seeds import generator

POOLED = "pooled"
"""The place of evidence that is averaged over sites."""

Key = tuple[Setting, str]
"""A setting, and a place: a site, ``pooled``, or ``weights``."""

Fact = dict[str, str | float]
"""``{place, left_out, metric, value}``, and the share ``p`` where it counts: what a link is like."""


@dataclass(frozen=True)
class Side:
    """One model of a link."""

    node: Node
    model: nn.Module
    streams: Streams


@dataclass(frozen=True)
class Detail:
    """What is measured beyond matching |C|, token by token, at one row length.

    Attributes:
        length: The row length. What a link is like is read there on the most tokens.
        shares: Shares p of positive signs under which raw correlations are matched; none for no raw matching.
        plants: Draws of each.
    """

    length: int
    shares: Sequence[float]
    plants: int


@dataclass(frozen=True)
class Link:
    """The residuals of a link, and what it is like.

    Attributes:
        residuals: Key -> place of its residual in ``found``; keys with the same evidence share one.
        raw: (key, share p of positive signs) -> places of the residuals of raw matching, one a plant.
        found: int16[n, d], residuals as ``sign · (perm + 1)``.
        facts: What the link is like.
    """

    residuals: dict[Key, int]
    raw: dict[tuple[Key, float], list[int]]
    found: Tensor
    facts: list[Fact]

    def residual(self, place: int) -> SignedPermutation:
        """Return one of the residuals."""
        packed = self.found[place].to(torch.int64)
        return SignedPermutation(packed.abs() - 1, packed.sign())

    def save(self, folder: Path) -> None:
        """Write the link into a folder."""
        save_file({"found": self.found}, folder / "residuals.safetensors")
        keys = [[astuple(s), place, i] for (s, place), i in self.residuals.items()]
        raw = [[astuple(s), place, p, i] for ((s, place), p), i in self.raw.items()]
        write_json(folder / "link.json", {"residuals": keys, "raw": raw, "facts": self.facts})

    @classmethod
    def load(cls, folder: Path) -> Link:
        """Return the link that :meth:`save` wrote."""
        kept = json.loads((folder / "link.json").read_text())
        return cls(
            {(Setting(*s), place): i for s, place, i in kept["residuals"]},
            {((Setting(*s), place), p): i for s, place, p, i in kept["raw"]},
            load_file(folder / "residuals.safetensors")["found"],
            kept["facts"],
        )


def measure_link(
    a: Side, b: Side, text: Text, sites: Sequence[str], detail: Detail, seen: Tensor | None, seed: int
) -> Link:
    """Recover the gauge from ``a`` to ``b`` under every setting and at every place.

    Args:
        a: The model to match from.
        b: The model to match to.
        text: The text that the streams are of.
        sites: The sites to read, which are pooled too.
        detail: Where raw correlations are matched, and read.
        seen: int64[n], the vocabulary rows that weight evidence may read; None for all.
        seed: Seed of the plants.
    """
    residuals: dict[Key, int] = {}
    raw: dict[tuple[Key, float], list[int]] = {}
    found: list[Tensor] = []
    facts: list[Fact] = [_fact("weights", "", "weight_distance", weight_distance(a.model, b.model))]
    most = max(text.levels[detail.length])
    d = chart_of(a.model).width
    q_a, q_b = (SignedPermutation.random(d, generator(seed, "plant", *side.node)) for side in (a, b))
    for keys, c, moments in _evidence(a, b, text, sites, seen):
        residuals |= dict.fromkeys(keys, len(found))
        found.append(_packed(residual(c, q_a, q_b)))
        for setting, place in keys:
            in_detail = setting.length == detail.length and setting.samples == "tokens"
            if setting != WEIGHTS and (not in_detail or setting.left_out == "massive"):
                continue
            for p in detail.shares:
                raw[(setting, place), p] = list(range(len(found), len(found) + detail.plants))
                found += [_packed(_raw_residual(c, q_a, p, seed, n)) for n in range(detail.plants)]
            if setting.tokens in (most, WEIGHTS.tokens):
                values = describe(c).items()
                facts += [_fact(place, setting.left_out, metric, value) for metric, value in values]
                if moments is not None:
                    for p in detail.shares:
                        truths = [truth_with_share(len(c), p, seed, n) for n in range(detail.plants)]
                        nmse = fmean(lossless_nmse(moments, truth.sign) for truth in truths)
                        facts.append({**_fact(place, setting.left_out, "lossless_nmse", nmse), "p": p})
    return Link(residuals, raw, torch.stack(found), facts)


def residual(c: Tensor, q_a: SignedPermutation, q_b: SignedPermutation) -> SignedPermutation:
    """Match |C| under planted gauges, and return the residual ``q_B⁻¹ ∘ ĝ ∘ q_A``.

    Where the true partner is the strict best of every row, it is the only optimum under any plant, so
    nothing is solved.

    Args:
        c: Evidence float64[d, d] in shared coordinates, indexed [B, A].
        q_a: The element planted on A.
        q_b: The element planted on B.
    """
    if bool((matched_margins(c.abs(), torch.arange(len(c))) > 0).all()):
        return SignedPermutation(torch.arange(len(c)), torch.where(c.diagonal() < 0, -1, 1))
    gauge = match(relabel_evidence(c, q_a, q_b), "signed_permutation", "hungarian_abs").gauge
    return _signed(compose(q_b.inverse(), compose(gauge, q_a)))


def truth_with_share(d: int, p: float, seed: int, plant: int) -> SignedPermutation:
    """Return a draw of the true gauge with a share p of positive signs."""
    return plant_with_positive_share(d, p, generator(seed, "calibration truth", p, plant))


def describe(c: Tensor) -> dict[str, float]:
    """Describe evidence float64[d, d] in shared coordinates.

    Returns:
        ``true_correlation`` (median of C's diagonal), ``true_margin`` (median of |C|'s diagonal minus the
        best other entry of its row), ``effective_rank`` (participation ratio of C's squared singular values).
    """
    squares = c @ c.T
    return {
        "true_correlation": float(c.diagonal().median()),
        "true_margin": float(matched_margins(c.abs(), torch.arange(len(c))).median()),
        "effective_rank": float(squares.trace() ** 2 / squares.square().sum()),
    }


def lossless_nmse(moments: Moments, sign: Tensor) -> float:
    """Return the NMSE on B of an SAE that loses nothing on A, moved with the true indices but no signs.

    Coordinates with a positive sign arrive as they are, the others as their negatives:
    ``Σ_{sign<0} 4·E[x²] / Σ Var[x]``. About 4(1 − p) where means are small.

    Args:
        moments: Moments of A and B.
        sign: int8[d], the signs of the true gauge.
    """
    energy = moments.square_b + moments.n * moments.mean_b.square()
    return float(4 * energy[sign < 0].sum() / moments.square_b.sum())


def weight_distance(a: nn.Module, b: nn.Module) -> float:
    """Return ‖θ_B − θ_A‖ / ‖θ_A‖ over all parameters."""
    of_b = dict(b.named_parameters())
    moved = norm = 0.0
    with torch.no_grad():
        for name, p in a.named_parameters():
            moved += float((of_b[name] - p).norm()) ** 2
            norm += float(p.norm()) ** 2
    return float((moved / norm) ** 0.5)


def _evidence(
    a: Side, b: Side, text: Text, sites: Sequence[str], seen: Tensor | None
) -> Iterator[tuple[list[Key], Tensor, Moments | None]]:
    """Yield evidence float64[d, d] with the keys that it is of, and at sites the moments it is made from."""
    yield [(WEIGHTS, "weights")], weight_evidence(a.model, b.model, seen), None
    # settings that leave out the same tokens at every site share what is pooled, as they share each site's
    pooled: dict[Setting, Tensor] = {}
    shared: dict[Setting, list[int]] = {}
    for site in sites:
        for n, (settings, moments) in enumerate(moments_at(a.streams, b.streams, site, text)):
            c = moments.correlation()
            for setting in settings:
                pooled[setting] = pooled[setting].add_(c) if setting in pooled else c.clone()
                shared.setdefault(setting, []).append(n)
            yield [(setting, site) for setting in settings], c, moments
    same: dict[tuple[int, ...], list[Setting]] = {}
    for setting, parts in shared.items():
        same.setdefault(tuple(parts), []).append(setting)
    for settings in same.values():
        yield [(setting, POOLED) for setting in settings], pooled[settings[0]] / len(sites), None


def _raw_residual(c: Tensor, q_a: SignedPermutation, p: float, seed: int, plant: int) -> SignedPermutation:
    """Match raw C where B is planted so that the true gauge has a share p of positive signs."""
    q_b = _signed(compose(truth_with_share(len(c), p, seed, plant), q_a))
    gauge = match(relabel_evidence(c, q_a, q_b), "permutation", "hungarian_raw").gauge
    return _signed(compose(q_b.inverse(), compose(gauge, q_a)))


def _signed(element: object) -> SignedPermutation:
    assert isinstance(element, SignedPermutation)
    return element


def _packed(element: SignedPermutation) -> Tensor:
    return (element.sign * (element.perm + 1)).to(torch.int16)


def _fact(place: str, left_out: str, metric: str, value: float) -> Fact:
    return {"place": place, "left_out": left_out, "metric": metric, "value": value}
