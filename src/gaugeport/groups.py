"""Gauge elements: the coordinate changes of a residual stream that leave the model's function alone.

Conventions (DESIGN §1), used everywhere in the package:

* activations are row vectors ``x[..., d]``; an element ``g`` acts on the residual axis;
* ``SignedPermutation``: ``(g·x)[..., i] = sign[i] * x[..., perm[i]]``, dense form ``Q[i, perm[i]] = sign[i]``;
* ``Orthogonal``: ``g·x = x @ Q.T``;
* ``compose(g, h)·x = g·(h·x)``.

A *vector* axis is permuted and signed; a *gain* axis (norm weights, second moments, any magnitude) is permuted only.
Elements are frozen values: they compare by content, and every operation returns a new one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

ORTHOGONALITY_TOLERANCE = 1e-4


class Element:
    """What every gauge element offers; the concrete classes below say how.

    ``group`` is the name used in configs and tables, ``size`` the width d of the residual stream.
    """

    group: ClassVar[str]

    @property
    def size(self) -> int:
        raise TypeError(f"{type(self).__name__} is not a concrete gauge element")

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = self._tensors(), other._tensors()  # type: ignore[attr-defined]
        return all(torch.equal(mine[k], theirs[k]) for k in mine)

    def __hash__(self) -> int:
        # + 0 because -0.0 and 0.0 are equal but differ in bytes
        return hash((self.group, *((t + 0).numpy().tobytes() for t in self._tensors().values())))

    def save(self, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
        """Write one safetensors file holding the element and, in its metadata, its group and provenance.

        The file is written aside and renamed, so a crash never leaves half a gauge.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        metadata = {"gaugeport_group": self.group, "provenance": json.dumps(provenance or {}, sort_keys=True)}
        if isinstance(self, AffineGauge):
            metadata["linear_group"] = self.linear.group
        save_file({k: v.contiguous() for k, v in self._tensors().items()}, aside, metadata=metadata)
        os.replace(aside, path)
        return path

    @classmethod
    def load(cls, path: str | Path, width: int | None = None) -> Self:
        """Read an element written by :meth:`save`.

        Raises ``ValueError`` when the file holds another group than this class, or a width other than ``width``.
        """
        element = load(path, width)
        if type(element) is not cls:
            raise ValueError(f"{path} holds an element of group {element.group!r}; {cls.__name__} wants {cls.group!r}")
        return element


@dataclass(frozen=True, eq=False)
class SignedPermutation(Element):
    """An element of B_d: coordinate ``i`` of the result is ``sign[i]`` times coordinate ``perm[i]`` of the input.

    ``perm`` int64[d], a permutation of ``0..d-1``; ``sign`` int8[d] of ±1. Raises ``ValueError`` on anything else.
    """

    perm: Tensor
    sign: Tensor
    group: ClassVar[str] = "signed_permutation"

    def __post_init__(self) -> None:
        perm = torch.as_tensor(self.perm).detach().cpu()
        sign = torch.as_tensor(self.sign).detach().cpu()
        integers = not perm.is_floating_point() and perm.dtype != torch.bool
        if perm.dim() != 1 or not integers or not torch.equal(perm.sort().values.long(), torch.arange(len(perm))):
            raise ValueError(f"perm must be a permutation of 0..d-1 as an integer vector, found {_describe(perm)}")
        if sign.shape != perm.shape or sign.dtype == torch.bool or not bool((sign.abs() == 1).all()):
            raise ValueError(f"sign must be a vector of {len(perm)} entries +1 or -1, found {_describe(sign)}")
        # copies: a frozen value must not change with the tensor it was made from
        object.__setattr__(self, "perm", perm.to(torch.int64, copy=True))
        object.__setattr__(self, "sign", sign.to(torch.int8, copy=True).contiguous())

    @property
    def size(self) -> int:
        return len(self.perm)

    @classmethod
    def identity(cls, d: int) -> Self:
        """The element of width ``d`` that changes nothing."""
        return cls._from_signed(torch.arange(d), torch.ones(d, dtype=torch.int8))

    @classmethod
    def random(cls, d: int, generator: torch.Generator | None = None) -> Self:
        """A uniform element of the group of width ``d``, drawn from ``generator``."""
        perm = torch.randperm(d, generator=generator)
        return cls._from_signed(perm, cls._random_signs(d, generator))

    @classmethod
    def _random_signs(cls, d: int, generator: torch.Generator | None) -> Tensor:
        return (torch.randint(0, 2, (d,), generator=generator) * 2 - 1).to(torch.int8)

    @classmethod
    def _from_signed(cls, perm: Tensor, sign: Tensor) -> Self:
        return cls(perm, sign)

    def inverse(self) -> Self:
        """The element with ``g.inverse()·(g·x) = x``."""
        q = torch.argsort(self.perm)
        return self._from_signed(q, self.sign[q])

    def act(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on a *vector* axis of ``x`` (length d there): permute and sign. Keeps dtype and device."""
        moved = self.act_gain(x, axis)
        shape = [1] * x.dim()
        shape[axis] = self.size
        return moved * self.sign.to(x.device, x.dtype).view(shape)

    def act_gain(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on a *gain* axis (norm weights, second moments, magnitudes): permute only."""
        _check_axis(x, axis, self.size)
        return x.index_select(axis, self.perm.to(x.device))

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The matrix Q[d, d] with ``g·x = x @ Q.T``."""
        q = torch.zeros(self.size, self.size, dtype=dtype)
        q[torch.arange(self.size), self.perm] = self.sign.to(dtype)
        return q

    def without_signs(self) -> Permutation:
        """The permutation part: S_d with the signs dropped, the papers' symmetry-incomplete control."""
        return Permutation(self.perm)


@dataclass(frozen=True, eq=False)
class GlobalSignPermutation(SignedPermutation):
    """An element of S_d × {±1}: the exact gauge group of a LayerNorm chart. ``sign`` may be given as one ±1."""

    group: ClassVar[str] = "global_sign_permutation"

    def __post_init__(self) -> None:
        sign = torch.as_tensor(self.sign)
        if sign.dim() == 0:
            object.__setattr__(self, "sign", sign.expand(torch.as_tensor(self.perm).numel()))
        super().__post_init__()
        if self.size and not bool((self.sign == self.sign[0]).all()):
            raise ValueError("a GlobalSignPermutation has one sign for all coordinates, found both +1 and -1")

    @classmethod
    def _random_signs(cls, d: int, generator: torch.Generator | None) -> Tensor:
        return super()._random_signs(1, generator).expand(d)


@dataclass(frozen=True, eq=False)
class Permutation(GlobalSignPermutation):
    """An element of S_d: ``Permutation(perm)``, all signs +1."""

    sign: Tensor = None  # type: ignore[assignment]
    group: ClassVar[str] = "permutation"

    def __post_init__(self) -> None:
        if self.sign is None:
            object.__setattr__(self, "sign", torch.tensor(1))
        super().__post_init__()
        if not bool((self.sign == 1).all()):
            raise ValueError("a Permutation has no signs: every sign must be +1")

    @classmethod
    def _random_signs(cls, d: int, generator: torch.Generator | None) -> Tensor:
        return torch.ones(d, dtype=torch.int8)


@dataclass(frozen=True, eq=False)
class Orthogonal(Element):
    """An element of O(d): ``g·x = x @ matrix.T``. ``matrix`` float[d, d] with orthonormal rows (stored as float64)."""

    matrix: Tensor
    group: ClassVar[str] = "orthogonal"

    def __post_init__(self) -> None:
        q = torch.as_tensor(self.matrix).detach().cpu().to(torch.float64, copy=True)
        if q.dim() != 2 or q.shape[0] != q.shape[1]:
            raise ValueError(f"an orthogonal matrix is square, found shape {tuple(q.shape)}")
        error = float((q @ q.T - torch.eye(len(q), dtype=q.dtype)).abs().max()) if len(q) else 0.0
        if not error <= ORTHOGONALITY_TOLERANCE:
            raise ValueError(f"matrix is not orthogonal: max|QQ'-I| = {error:.2g}, allowed {ORTHOGONALITY_TOLERANCE}")
        object.__setattr__(self, "matrix", q)

    @property
    def size(self) -> int:
        return len(self.matrix)

    @classmethod
    def identity(cls, d: int) -> Self:
        return cls(torch.eye(d, dtype=torch.float64))

    @classmethod
    def random(cls, d: int, generator: torch.Generator | None = None) -> Self:
        """A Haar-distributed element (QR of a Gaussian matrix with the sign of R's diagonal corrected)."""
        return cls(haar_matrix(d, generator))

    def inverse(self) -> Self:
        return type(self)(self.matrix.T.contiguous())

    def act(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on a *vector* axis of ``x``. Multiplies in float64 and returns ``x``'s dtype, on ``x``'s device."""
        _check_axis(x, axis, self.size)
        wide = x.movedim(axis, -1).to(torch.float64)
        return (wide @ self.matrix.to(x.device).T).to(x.dtype).movedim(-1, axis)

    def act_gain(self, x: Tensor, axis: int = -1) -> Tensor:
        """Raises ``ValueError``: magnitudes have no image under a rotation (they mix)."""
        raise ValueError(
            "gains and second moments are per-coordinate magnitudes; a rotation does not act on them. "
            "Allowed groups: permutation, global_sign_permutation, signed_permutation (or fold the gains first)"
        )

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.matrix.to(dtype)


@dataclass(frozen=True, eq=False)
class MeanPreservingOrthogonal(Orthogonal):
    """A rotation that fixes the all-ones direction up to sign: the gauge of a LayerNorm chart with folded gains."""

    group: ClassVar[str] = "mean_preserving_orthogonal"

    def __post_init__(self) -> None:
        super().__post_init__()
        rows = self.matrix.sum(1)
        error = min(float((rows - s).abs().max()) for s in (1.0, -1.0)) if self.size else 0.0
        if error > ORTHOGONALITY_TOLERANCE:
            raise ValueError(f"matrix does not fix the all-ones vector up to sign: max|Q1 ∓ 1| = {error:.2g}")

    @classmethod
    def random(cls, d: int, generator: torch.Generator | None = None) -> Self:
        """Haar on the complement of the all-ones direction, a fair sign on that direction."""
        basis = mean_free_basis(d)
        sign = torch.randint(0, 2, (), generator=generator, dtype=torch.float64) * 2 - 1
        inner = haar_matrix(d - 1, generator)
        return cls(basis @ inner @ basis.T + sign / d)


@dataclass(frozen=True, eq=False)
class AffineGauge(Element):
    """A gauge element together with a shift: ``x -> g·x + shift`` (centred Procrustes between models).

    Never an exact symmetry of a model; it carries activations and shifts ``b_dec``-like points. ``shift`` float[d].
    """

    linear: Element
    shift: Tensor
    group: ClassVar[str] = "affine"

    def __post_init__(self) -> None:
        shift = torch.as_tensor(self.shift).detach().cpu().to(torch.float64, copy=True)
        if isinstance(self.linear, AffineGauge) or not isinstance(self.linear, Element):
            raise ValueError(f"the linear part must be a linear gauge element, found {type(self.linear).__name__}")
        if shift.shape != (self.linear.size,):
            raise ValueError(f"shift must have {self.linear.size} entries, found shape {tuple(shift.shape)}")
        if not bool(torch.isfinite(shift).all()):
            raise ValueError(f"shift must be finite, found {_describe(shift)}")
        object.__setattr__(self, "shift", shift)

    def _tensors(self) -> dict[str, Tensor]:
        return {**self.linear._tensors(), "shift": self.shift}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AffineGauge):
            return NotImplemented
        return self.linear == other.linear and torch.equal(self.shift, other.shift)

    __hash__ = Element.__hash__

    @property
    def size(self) -> int:
        return self.linear.size

    @classmethod
    def identity(cls, d: int) -> Self:
        return cls(Orthogonal.identity(d), torch.zeros(d))

    @classmethod
    def random(cls, d: int, generator: torch.Generator | None = None) -> Self:
        """A Haar rotation and a standard Gaussian shift."""
        return cls(Orthogonal.random(d, generator), torch.randn(d, generator=generator, dtype=torch.float64))

    def inverse(self) -> Self:
        back = self.linear.inverse()  # type: ignore[attr-defined]
        return type(self)(back, -back.act(self.shift))

    def act(self, x: Tensor, axis: int = -1) -> Tensor:
        """Act on *points* (activations): linear part, then the shift. Directions want ``.linear.act``."""
        moved = self.linear.act(x, axis)  # type: ignore[attr-defined]
        shape = [1] * x.dim()
        shape[axis] = self.size
        return moved + self.shift.to(x.device, x.dtype).view(shape)


LinearGauge = SignedPermutation | Orthogonal
GROUPS: dict[str, type[Element]] = {
    c.group: c
    for c in (
        Permutation,
        GlobalSignPermutation,
        SignedPermutation,
        MeanPreservingOrthogonal,
        Orthogonal,
        AffineGauge,
    )
}


def compose(g: Element, h: Element) -> Any:
    """The element with ``compose(g, h)·x = g·(h·x)``, in the smallest of our groups that holds both.

    Raises ``ValueError`` when the widths differ.
    """
    if g.size != h.size:
        raise ValueError(f"cannot compose gauges of widths {g.size} and {h.size}")
    if isinstance(g, AffineGauge) or isinstance(h, AffineGauge):
        gl, gs = (g.linear, g.shift) if isinstance(g, AffineGauge) else (g, torch.zeros(g.size, dtype=torch.float64))
        hl, hs = (h.linear, h.shift) if isinstance(h, AffineGauge) else (h, torch.zeros(h.size, dtype=torch.float64))
        return AffineGauge(compose(gl, hl), gl.act(hs) + gs)  # type: ignore[attr-defined]
    joint = smallest_common_group(g, h)
    if issubclass(joint, SignedPermutation):
        assert isinstance(g, SignedPermutation) and isinstance(h, SignedPermutation)
        return joint._from_signed(h.perm[g.perm], g.sign * h.sign[g.perm])
    assert isinstance(g, LinearGauge) and isinstance(h, LinearGauge)
    return joint(g.dense() @ h.dense())  # type: ignore[call-arg]


def smallest_common_group(g: Element, h: Element) -> type[Element]:
    """The smallest class of ours that is a group holding both (linear) elements."""
    for cls in (Permutation, GlobalSignPermutation, SignedPermutation, MeanPreservingOrthogonal):
        if all(contains(cls.group, e) for e in (type(g), type(h))):
            return cls
    return Orthogonal


def contains(group: str, element: type[Element] | Element) -> bool:
    """Whether the named group holds ``element`` (a value, or every element of a class)."""
    cls = element if isinstance(element, type) else type(element)
    if group not in GROUPS:
        raise ValueError(f"unknown group {group!r}; allowed: {', '.join(GROUPS)}")
    if group in ("orthogonal", "affine"):
        return group == "affine" or not issubclass(cls, AffineGauge)
    if group == "mean_preserving_orthogonal":
        return issubclass(cls, (GlobalSignPermutation, MeanPreservingOrthogonal))
    return issubclass(cls, GROUPS[group])


def haar_matrix(d: int, generator: torch.Generator | None = None) -> Tensor:
    """A Haar-distributed orthogonal matrix, float64[d, d] (Mezzadri 2007: QR with R's diagonal made positive)."""
    q, r = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return q * torch.sign(r.diagonal())


def mean_free_basis(d: int) -> Tensor:
    """An orthonormal basis of the complement of the all-ones vector, float64[d, d-1] (Helmert's)."""
    k = torch.arange(1, d, dtype=torch.float64)
    rows = torch.arange(d).unsqueeze(1)
    basis = torch.where(rows < k, 1.0, 0.0) - torch.where(rows == k, k, 0.0)
    return basis / torch.sqrt(k * (k + 1))


def load(path: str | Path, width: int | None = None) -> Element:
    """Read a gauge file of any group.

    Raises ``FileNotFoundError`` when it is missing, ``ValueError`` when it is damaged, is no gauge file, or its
    width is not ``width``.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no gauge file at {path}")
    try:
        with safe_open(path, framework="pt") as f:
            metadata, tensors = f.metadata() or {}, {k: f.get_tensor(k) for k in f.keys()}
    except SafetensorError as e:
        raise ValueError(f"{path} is not a readable safetensors file: {e}") from e
    group = metadata.get("gaugeport_group")
    if group not in GROUPS:
        raise ValueError(f"{path} is no gauge file: group {group!r} in its metadata; allowed: {', '.join(GROUPS)}")
    element: Element
    try:
        if group == "affine":
            shift = tensors.pop("shift")
            element = AffineGauge(GROUPS[metadata["linear_group"]](**tensors), shift)
        else:
            element = GROUPS[group](**tensors)
    except (KeyError, TypeError) as e:
        raise ValueError(f"{path} is no complete gauge file of group {group!r}: it holds {sorted(tensors)}") from e
    if width is not None and element.size != width:
        raise ValueError(f"{path} holds a gauge of width {element.size}; the model's residual width is {width}")
    return element


def provenance(path: str | Path) -> dict[str, Any]:
    """The provenance a gauge file was saved with."""
    with safe_open(Path(path), framework="pt") as f:
        return json.loads((f.metadata() or {}).get("provenance", "{}"))


def _check_axis(x: Tensor, axis: int, size: int) -> None:
    if x.dim() == 0 or not -x.dim() <= axis < x.dim() or x.shape[axis] != size:
        raise ValueError(f"axis {axis} of a tensor of shape {tuple(x.shape)} is not the gauge's width {size}")


def _describe(t: Tensor) -> str:
    values = t.flatten()[:6].tolist()
    return f"{t.dtype} of shape {tuple(t.shape)} starting {values}"
