"""Audit checkpoints for independence before anything is claimed about seeds (table b12).

Published branches contain duplicates and mislabelled files, and a 'seed' that is another's later checkpoint
agrees with it for no interesting reason. Three things show that two models are not independent:

- bit-identical tensors, whatever their names: *duplicates*, or *partly copied* where they are few;
- a cosine of their weights far from 0. Weights of independent runs are uncorrelated, so that ‖θ −
  θ'‖/√(‖θ‖‖θ'‖) is √2 where their norms agree; a fine-tuned copy, another checkpoint of one run and a run
  from the same initialisation still point where they came from;
- equal singular values of every matrix: *one function in other coordinates*. A gauge-transformed copy (a
  signed permutation or a rotation of the stream, heads or neurons in another order) has weights as far away
  as those of an independent run, and computes the same.

The audit compares files, not functions: a copy with its gains folded, or with neurons scaled, passes. Tensors
that are equal by construction are named and do not count: those that the caller declares as shared, buffers,
and constant ones (unit norms, biases never trained).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

LARGEST_COSINE = 0.1
"""Largest cosine, in size, of the weights of independent models.

Measured between independent seeds: up to .03 (d = 64) and .012 (d = 128).
"""

DUPLICATE_SHARE = 0.5
"""Models with a larger share of their tensors bit-identical are duplicates."""

SAME_SPECTRUM_DISTANCE = 1e-4
"""Relative distance of singular values below which matrices differ in coordinates only; rounding is 1e-6."""

BUFFER_ENDINGS = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias")
"""How the names of buffers end in files of GPT-NeoX models."""

Weights = nn.Module | Mapping[str, Tensor]
"""A model, or its state dict."""


@dataclass(frozen=True)
class WeightComparison:
    """Two models compared.

    Attributes:
        identical: Names of the first model's tensors that are bit-identical to one of the second's.
        counted: Number of tensors that could differ.
        constructed: Tensors that are equal by construction: name -> why.
        cosine: Cosine over all weight matrices; NaN where no matrix has the same name and shape in both.
        distance: Relative distance ‖θ − θ'‖/√(‖θ‖‖θ'‖) over all weight matrices, or NaN.
        matrices: Name -> cosine, relative distance, and relative distance of the singular values.
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
        distances = {name: values[2] for name, values in self.matrices.items()}
        return max(distances.items(), key=lambda item: item[1], default=("", math.nan))

    def verdict(self, largest_cosine: float = LARGEST_COSINE) -> str:
        """Return ``independent``, or what the two models are instead."""
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
    """Check that every two models are independent.

    Args:
        models: Two or more models by name.
        shared: Names of tensors that are equal by construction, for example the frozen boundary of cohort A.
        largest_cosine: Largest cosine of independent models, between 0 and 1.

    Raises:
        ValueError: Two models are not independent; the message names the first two and says what they are.
            Also for fewer than two models, a shared tensor that a model lacks, and a cosine that is not
            allowed.
    """
    if len(models) < 2:
        raise ValueError(f"{len(models)} model to compare; allowed: two or more")
    check_cosine(largest_cosine)
    for (first, a), (second, b) in combinations(models.items(), 2):
        pair = compare(a, b, shared)
        verdict = pair.verdict(largest_cosine)
        if verdict != "independent":
            raise ValueError(
                f"{first} and {second} are not independent but {verdict}: "
                f"{len(pair.identical)} of {pair.counted} tensors bit-identical, "
                f"cosine of the weights {pair.cosine:.3g}, singular values {pair.spectrum[1]:.1e} apart; "
                f"allowed: a cosine up to {largest_cosine}, and tensors equal by construction named as shared"
            )


def check_cosine(largest_cosine: float) -> None:
    """Raise ``ValueError`` for a largest cosine that is not between 0 and 1."""
    if not 0 < largest_cosine < 1:
        raise ValueError(f"largest_cosine={largest_cosine}; allowed: a cosine between 0 and 1")


def compare(first: Weights, second: Weights, shared: Sequence[str] = ()) -> WeightComparison:
    """Compare two models tensor by tensor.

    Args:
        first: A model or state dict.
        second: Another one.
        shared: Names of tensors that are equal by construction.

    Raises:
        ValueError: A model lacks a shared tensor, or no tensor could differ.
    """
    sides = tensors(first), tensors(second)
    missing = [n for n in shared if any(n not in side for side in sides)]
    if missing:
        raise ValueError(
            f"shared tensor {missing[0]} is not in both models; allowed: names of tensors that both have"
        )

    # 1) leave out what is equal by construction
    digests = [{n: digest(x) for n, x in side.items()} for side in sides]
    constructed = dict.fromkeys(shared, "shared")
    for model, side, own, other in zip((first, second), sides, digests, reversed(digests), strict=True):
        constructed |= {n: "buffer" for n in sorted(buffers(model)) if n not in constructed}
        equal_constants = {n for n, x in side.items() if _is_constant(x) and own[n] in other.values()}
        constructed |= {n: "constant" for n in sorted(equal_constants) if n not in constructed}
    mine, theirs = ({n: x for n, x in side.items() if n not in constructed} for side in sides)
    if not mine or not theirs:
        raise ValueError(
            "every tensor is equal by construction; allowed: models with tensors that could differ"
        )

    # 2) find bit-identical tensors, each of the second's counted once
    left = Counter(digests[1][n] for n in theirs)
    identical = []
    for name in mine:
        if left[digests[0][name]]:
            left[digests[0][name]] -= 1
            identical.append(name)

    # 3) compare the weight matrices that both have
    names = [n for n, x in mine.items() if _is_matrix(x) and n in theirs and theirs[n].shape == x.shape]
    matrices = {
        n: (*cosine_and_distance(mine, theirs, [n]), _spectrum_distance(mine[n], theirs[n])) for n in names
    }
    cosine, distance = cosine_and_distance(mine, theirs, names)
    counted = min(len(mine), len(theirs))
    return WeightComparison(tuple(identical), counted, constructed, cosine, distance, matrices)


def cosine_and_distance(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], names: Sequence[str]
) -> tuple[float, float]:
    """Return the cosine and the relative distance ‖θ − θ'‖/√(‖θ‖‖θ'‖) of some tensors together, in float64.

    Args:
        first: Tensors by name.
        second: Tensors of the same shapes.
        names: Which of them to compare; without names both values are NaN.
    """
    dot = square_first = square_second = 0.0
    for name in names:
        x, y = (side[name].detach().double().flatten().cpu() for side in (first, second))
        dot += float(x @ y)
        square_first += float(x @ x)
        square_second += float(y @ y)
    size = (square_first * square_second) ** 0.5
    if not size:
        return math.nan, math.nan
    return dot / size, (max(square_first + square_second - 2 * dot, 0.0) / size) ** 0.5


def weight_changes(model: Weights, start: Weights) -> dict[str, Tensor]:
    """Return what training changed: ``model`` minus ``start``, float64, for the weight matrices of both."""
    now, before = tensors(model), tensors(start)
    return {
        n: (x.detach().double() - before[n].detach().double().to(x.device))
        for n, x in now.items()
        if _is_matrix(x) and n in before and before[n].shape == x.shape
    }


def tensors(model: Weights) -> dict[str, Tensor]:
    """Return parameters and buffers by name, tied ones once."""
    if isinstance(model, nn.Module):
        return {n: p.detach() for n, p in (*model.named_parameters(), *model.named_buffers())}
    return dict(model)


def buffers(model: Weights) -> set[str]:
    """Return the names of tensors that are not parameters; of a state dict, by their names and dtypes."""
    if isinstance(model, nn.Module):
        return {n for n, _ in model.named_buffers()}
    return {n for n, x in model.items() if n.endswith(BUFFER_ENDINGS) or not x.is_floating_point()}


def digest(x: Tensor) -> str:
    """Return a hash of a tensor's shape, dtype and bits, 16 hexadecimal digits."""
    plain = x.detach().cpu().contiguous()
    total = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    total.update(plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return total.hexdigest()[:16]


def model_digest(model: Weights) -> str:
    """Return a hash of all parameters, whatever their names and order, 16 hexadecimal digits."""
    skipped = buffers(model)
    digests = sorted(digest(x) for n, x in tensors(model).items() if n not in skipped)
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]


def _is_constant(x: Tensor) -> bool:
    return x.numel() > 0 and bool((x == x.flatten()[0]).all())


def _is_matrix(x: Tensor) -> bool:
    return x.dim() >= 2 and x.is_floating_point()


def _spectrum_distance(x: Tensor, y: Tensor) -> float:
    """Return the relative distance of the singular values of two matrices of one shape."""
    s, t = (_singular_values(z.detach().double().flatten(1)) for z in (x, y))
    return float((s - t).norm() / (s.norm() * t.norm()).sqrt().clamp(min=torch.finfo(s.dtype).tiny))


def _singular_values(x: Tensor) -> Tensor:
    small = x.T @ x if x.shape[0] > x.shape[1] else x @ x.T  # d × d, also of an embedding
    return torch.linalg.eigvalsh(small).clamp(min=0).sqrt().cpu()
