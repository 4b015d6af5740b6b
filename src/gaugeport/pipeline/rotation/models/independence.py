"""Whether checkpoints are independent: an audit of files, made before anything is claimed of seeds.

Published branches contain duplicates and mislabelled files, and a 'seed' that is another's later checkpoint agrees with
it for no interesting reason. Three things give two models away:

- bit-identical tensors, whatever they are called: *duplicates*, or *partly copied* where they are few;
- a cosine of their weights far from 0. Weights of independent runs are uncorrelated, so that ‖θ − θ'‖/√(‖θ‖‖θ'‖) is √2
  where their norms agree; a fine-tuned copy, another checkpoint of one run and a run from the same initialisation still
  point where they came from;
- equal singular values of every matrix: *one function in other coordinates*. A gauge-transformed copy (a signed
  permutation or a rotation of the stream, heads or neurons in another order) has weights as far away as those of an
  independent run, and computes the same.

This compares files, not functions: a copy with its gains folded, or with neurons scaled, passes. Tensors that are equal
by construction count in nothing, and are named: those that the caller says are shared, buffers, and constant ones (unit
norms, biases never trained).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

LARGEST_COSINE = 0.1
"""Of the weights of independent models, in size; measured between independent seeds: up to .03 (d = 64), .012 (d = 128)."""

DUPLICATE_SHARE = 0.5
"""Models with a larger share of their tensors bit-identical are duplicates."""

SAME_SPECTRUM_DISTANCE = 1e-4
"""Relative distance of singular values below which a matrix is the other's in other coordinates; rounding is 1e-6."""

BUFFERS = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias")
"""How the names of buffers end in files of GPT-NeoX models."""

Weights = nn.Module | Mapping[str, Tensor]
"""A model, or its state dict."""


@dataclass(frozen=True)
class WeightComparison:
    """Two models compared: tensor ``identical`` to one of the other's, by name, of ``counted`` that could differ.

    ``constructed`` are the tensors equal by construction, name -> why. ``cosine`` and ``distance`` (relative,
    ‖θ − θ'‖/√(‖θ‖‖θ'‖)) are over all weight matrices, ``matrices`` has them and the relative distance of the singular
    values by name; NaN and empty where the models have no matrix of one name and shape.
    """

    identical: tuple[str, ...]
    counted: int
    constructed: dict[str, str]
    cosine: float
    distance: float
    matrices: dict[str, tuple[float, float, float]]

    @property
    def identical_share(self) -> float:
        """Share of the tensors that could differ and do not."""
        return len(self.identical) / self.counted

    @property
    def spectrum(self) -> tuple[str, float]:
        """The matrix whose singular values differ most, and by how much; NaN where there is none."""
        return max(
            ((n, m[2]) for n, m in self.matrices.items()), key=lambda x: x[1], default=("", float("nan"))
        )

    def verdict(self, largest_cosine: float = LARGEST_COSINE) -> str:
        """``independent``, or what the two models are instead."""
        if self.identical_share > DUPLICATE_SHARE:
            return "duplicates"
        if self.identical:
            return "partly copied"
        if not self.matrices:
            return "not comparable"
        if abs(self.cosine) > largest_cosine:
            return "of one run or initialisation"
        if self.spectrum[1] < SAME_SPECTRUM_DISTANCE:
            return "one function in other coordinates"
        return "independent"


def check_independent(
    models: Mapping[str, Weights], shared: Sequence[str] = (), largest_cosine: float = LARGEST_COSINE
) -> None:
    """Raises ``ValueError`` naming the first two of ``models`` that cannot be called independent, and why not.

    ``shared`` names tensors that are equal by construction (cohort A's: :data:`gaugeport.pipeline.stages.cohorts.SHARED`).
    Raises ``ValueError`` too for fewer than two models, a shared tensor that a model lacks, and a bad threshold.
    """
    if len(models) < 2:
        raise ValueError(f"{len(models)} model to compare; allowed: two or more")
    check_cosine(largest_cosine)
    for (first, a), (second, b) in combinations(models.items(), 2):
        pair = compare(a, b, shared)
        found = pair.verdict(largest_cosine)
        if found != "independent":
            raise ValueError(
                f"{first} and {second} are not independent but {found}: {len(pair.identical)} of {pair.counted} "
                f"tensors bit-identical, cosine of the weights {pair.cosine:.3g}, singular values "
                f"{pair.spectrum[1]:.1e} apart; allowed: a cosine up to {largest_cosine}, and tensors equal by "
                "construction named as shared"
            )


def check_cosine(largest_cosine: float) -> None:
    """Raises ``ValueError`` for a threshold that separates nothing."""
    if not 0 < largest_cosine < 1:
        raise ValueError(f"largest_cosine={largest_cosine}; allowed: a cosine between 0 and 1")


def compare(first: Weights, second: Weights, shared: Sequence[str] = ()) -> WeightComparison:
    """Two models tensor by tensor (see :class:`WeightComparison`).

    Raises ``ValueError`` for a shared tensor that a model lacks, and where no tensor could differ.
    """
    sides = tensors(first), tensors(second)
    missing = [n for n in shared if any(n not in side for side in sides)]
    if missing:
        raise ValueError(
            f"shared tensor {missing[0]} is not in both models; allowed: names of tensors that both have"
        )
    digests = [{n: digest(x) for n, x in side.items()} for side in sides]
    constructed = dict.fromkeys(shared, "shared")
    for model, side, own, other in zip((first, second), sides, digests, reversed(digests), strict=True):
        constructed |= {n: "buffer" for n in buffers(model) if n not in constructed}
        alike = {n for n, x in side.items() if _constant(x) and own[n] in other.values()}
        constructed |= {n: "constant" for n in alike if n not in constructed}
    mine, theirs = ({n: x for n, x in side.items() if n not in constructed} for side in sides)
    if not mine or not theirs:
        raise ValueError(
            "every tensor is equal by construction: nothing says whether the models are independent"
        )
    left = Counter(digests[1][n] for n in theirs)
    identical = []
    for name in mine:
        if left[digests[0][name]]:
            left[digests[0][name]] -= 1
            identical.append(name)
    names = [n for n, x in mine.items() if _matrix(x) and n in theirs and theirs[n].shape == x.shape]
    matrices = {n: (*cosine_and_distance(mine, theirs, [n]), _spectra(mine[n], theirs[n])) for n in names}
    cosine, distance = cosine_and_distance(mine, theirs, names)
    return WeightComparison(
        tuple(identical), min(len(mine), len(theirs)), constructed, cosine, distance, matrices
    )


def cosine_and_distance(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], names: Sequence[str]
) -> tuple[float, float]:
    """Cosine and relative distance ‖θ − θ'‖/√(‖θ‖‖θ'‖) of the named tensors together, in float64; NaN of nothing."""
    dot = one = two = 0.0
    for name in names:
        x, y = (side[name].detach().double().flatten().cpu() for side in (first, second))
        dot, one, two = dot + float(x @ y), one + float(x @ x), two + float(y @ y)
    size = (one * two) ** 0.5
    return (
        (dot / size, (max(one + two - 2 * dot, 0.0) / size) ** 0.5) if size else (float("nan"), float("nan"))
    )


def weight_changes(model: Weights, start: Weights) -> dict[str, Tensor]:
    """What training changed: the difference of the weight matrices that both have, by name, float64."""
    now, before = tensors(model), tensors(start)
    return {
        n: (x.detach().double() - before[n].detach().double().to(x.device))
        for n, x in now.items()
        if _matrix(x) and n in before and before[n].shape == x.shape
    }


def tensors(model: Weights) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones once."""
    if isinstance(model, nn.Module):
        return {n: p.detach() for n, p in (*model.named_parameters(), *model.named_buffers())}
    return dict(model)


def buffers(model: Weights) -> set[str]:
    """The tensors that are no parameters; of a state dict, those whose name or type says so."""
    if isinstance(model, nn.Module):
        return {n for n, _ in model.named_buffers()}
    return {n for n, x in model.items() if n.endswith(BUFFERS) or not x.is_floating_point()}


def digest(x: Tensor) -> str:
    """A hash of a tensor's shape, precision and bits, 16 digits."""
    plain = x.detach().cpu().contiguous()
    total = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    total.update(plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return total.hexdigest()[:16]


def model_digest(model: Weights) -> str:
    """A hash of the contents of all parameters, whatever they are called and in whatever order: 16 digits."""
    skipped = buffers(model)
    found = sorted(digest(x) for n, x in tensors(model).items() if n not in skipped)
    return hashlib.sha256(" ".join(found).encode()).hexdigest()[:16]


def _constant(x: Tensor) -> bool:
    return x.numel() > 0 and bool((x == x.flatten()[0]).all())


def _matrix(x: Tensor) -> bool:
    return x.dim() >= 2 and x.is_floating_point()


def _spectra(x: Tensor, y: Tensor) -> float:
    """Relative distance of the singular values of two matrices of one shape."""
    s, t = (_singular_values(z.detach().double().flatten(1)) for z in (x, y))
    return float((s - t).norm() / (s.norm() * t.norm()).sqrt().clamp(min=torch.finfo(s.dtype).tiny))


def _singular_values(x: Tensor) -> Tensor:
    small = x.T @ x if x.shape[0] > x.shape[1] else x @ x.T  # of an embedding, d × d
    return torch.linalg.eigvalsh(small).clamp(min=0).sqrt().cpu()
