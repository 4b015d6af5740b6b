"""Compose the residuals of links along routes, score them, and return them as rows (table c5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from gaugeport.alignment.routes import Node, compose_along
from gaugeport.groups import Permutation, SignedPermutation, compose
from gaugeport.pipeline.measures.calibration.evidence import WEIGHTS
from gaugeport.pipeline.measures.calibration.links import POOLED, Detail, Key, Link, truth_with_share
from gaugeport.pipeline.measures.conditions import gauge_accuracy
from gaugeport.utils.seeds import generator

Row = dict[str, Any]
Links = Mapping[tuple[Node, Node], Link]

SIGNED = {"group": "signed_permutation", "matcher": "hungarian_abs"}
DROPPED = {"group": "permutation", "matcher": "hungarian_abs"}
RAW = {"group": "permutation", "matcher": "hungarian_raw"}


def route_rows(links: Links, route: str, nodes: Sequence[Node], detail: Detail, seed: int) -> Iterator[Row]:
    """Yield the rows of one route.

    - B_d, at every place under every setting: ``index_accuracy`` and ``signed_accuracy``.
    - S_d from |C| with the signs dropped, and (between two models) from raw C, at the row length of
      ``detail`` under every share p of positive signs, means over plants: these, and ``retention``, the share
      of a direction's effect that its transport keeps in expectation: each coordinate at its place counts
      +1 with the right sign and −1 with the wrong one.

    Leaving out massive tokens has rows only where it leaves out other tokens than no or the first ones.

    Args:
        links: Every link of the walk, under its two nodes in either order.
        route: The route's name.
        nodes: Its walk.
        detail: Where signs are dropped, and raw correlations matched.
        seed: Seed of the plants.
    """
    identity = SignedPermutation.identity(next(iter(links.values())).found.shape[1])
    walked = [_crossed(links, a, b)[0] for a, b in pairwise(nodes)]
    for key in walked[0].residuals:
        setting = key[0]
        if setting.left_out == "massive" and all(_is_shared(link, key) for link in walked):
            continue
        total = _composed(links, nodes, key)
        where = {"route": route, **_columns(key)}
        accuracy = gauge_accuracy(total, identity)
        for metric in ("index_accuracy", "signed_accuracy"):
            yield {**SIGNED, **where, "metric": metric, "value": accuracy[metric]}
        in_detail = setting.length == detail.length and setting.samples == "tokens"
        if not (setting == WEIGHTS or in_detail) or setting.left_out == "massive":
            continue
        for p in detail.shares:
            dropped = [_without_signs(total, p, seed, plant) for plant in range(detail.plants)]
            yield from _planted_rows({**DROPPED, **where, "p": p}, dropped)
            if len(walked) == 1:
                found = [walked[0].residual(i) for i in walked[0].raw[key, p]]
                yield from _planted_rows({**RAW, **where, "p": p}, found)


def fact_rows(links: Mapping[str, Sequence[Link]]) -> Iterator[Row]:
    """Yield what links are like, as means over those of one name: ``weight_distance``, what ``describe``
    returns, and ``lossless_nmse`` under every share p where signs are planted.

    Args:
        links: Name -> the links.
    """
    for name, named in links.items():
        for i, fact in enumerate(named[0].facts):
            value = fmean(float(link.facts[i]["value"]) for link in named)
            place, left_out = str(fact["place"]), fact["left_out"] or None
            where = {"link": name, "left_out": left_out, **_place(place)}
            if "p" in fact:  # of a gauge, though not of a recovered one
                where |= {**DROPPED, "route": "endpoint", "p": fact["p"]}
            yield {**where, "metric": fact["metric"], "value": value}


def _crossed(links: Links, a: Node, b: Node) -> tuple[Link, bool]:
    """Return the link between two nodes, and whether it was measured from b to a."""
    return (links[a, b], False) if (a, b) in links else (links[b, a], True)


def _composed(links: Links, nodes: Sequence[Node], key: Key) -> SignedPermutation:
    """Return the residual of a walk."""

    def local(a: Node, b: Node) -> SignedPermutation:
        link, backwards = _crossed(links, a, b)
        found = link.residual(link.residuals[key])
        return found.inverse() if backwards else found

    total = compose_along(nodes, local)
    assert isinstance(total, SignedPermutation)
    return total


def _is_shared(link: Link, key: Key) -> bool:
    """Return whether leaving out massive tokens is leaving out none or the first ones."""
    setting, place = key
    others = (replace(setting, left_out=left_out) for left_out in ("none", "first"))
    return link.residuals[key] in {link.residuals[other, place] for other in others}


def _without_signs(total: SignedPermutation, p: float, seed: int, plant: int) -> SignedPermutation:
    """Return the residual of a recovered gauge whose signs are dropped, under a true gauge of share p.

    A is in planted coordinates, and B in those with the true gauge on top.
    """
    d = total.size
    q_a = SignedPermutation.random(d, generator(seed, "calibration", plant))
    q_b = compose(truth_with_share(d, p, seed, plant), q_a)
    gauge = compose(q_b, compose(total, q_a.inverse()))
    assert isinstance(gauge, SignedPermutation)
    found = compose(q_b.inverse(), compose(Permutation(gauge.perm), q_a))
    assert isinstance(found, SignedPermutation)
    return found


def _planted_rows(where: Row, found: Sequence[SignedPermutation]) -> Iterator[Row]:
    """Yield index accuracy, signed accuracy and retention of residuals, means over plants."""
    accuracies = [gauge_accuracy(r, SignedPermutation.identity(r.size)) for r in found]
    index, signed = (fmean(a[m] for a in accuracies) for m in ("index_accuracy", "signed_accuracy"))
    for metric, value in (
        ("index_accuracy", index),
        ("signed_accuracy", signed),
        ("retention", 2 * signed - index),
    ):
        yield {**where, "metric": metric, "value": value}


def _columns(key: Key) -> Row:
    setting, place = key
    if setting == WEIGHTS:
        return _place(place)
    return {
        **_place(place),
        "length": setting.length,
        "left_out": setting.left_out,
        "tokens": setting.tokens,
        "samples": setting.samples,
    }


def _place(place: str) -> Row:
    is_site = place not in (POOLED, "weights")
    return {"evidence": "site" if is_site else place, "site": place if is_site else ""}
