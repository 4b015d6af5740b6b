"""Describe an SAE, whatever library it is of, and check that a gauge moves it to the same function.

With ``x' = g·x`` the moved SAE has ``latents'(x') = latents(x)`` and ``recon'(x') = g·recon(x)``: whatever
the encoder reads with, whatever the decoder writes and the decoder's bias are vectors of the stream;
everything else lives in latent coordinates.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gaugeport.groups import AffineGauge, Element, Orthogonal, contains
from gaugeport.transport.axis import InPlace
from gaugeport.transport.directions import linear_part
from gaugeport.transport.sae_rules import COVARIANT_UNDER, Axes
from gaugeport.transport.sae_sites import Site, site_of

MOVABLE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIZE_NAMES = {"in": "d_in", "out": "d_out"}


@dataclass(frozen=True, eq=False)
class SAEDescription:
    """What moving an SAE has to know of it.

    Attributes:
        kind: Its architecture, as messages name it ("standard SAE").
        rules: The axes of each tensor. ``*`` stands for a layer.
        sizes: The sizes of the axes "in", "out" and "latent".
        sites: Where the input ("in") and the output ("out") are.
        hooks: Their names, or None.
        optional: Tensors that may be missing.
        normalization: What happens to an input before the encoder, as ``COVARIANT_UNDER`` names it.
        subtracts_bias: Whether the encoder subtracts the decoder's bias, and nothing else sees the input.
        bias: The name of the decoder's bias.
        folded: Whether the gain of the norm that it sits behind was folded.
        uses_decoder: How the latents depend on the decoder, or None if they do not.
    """

    kind: str
    rules: Axes
    sizes: Mapping[str, int]
    sites: Mapping[str, Site]
    hooks: tuple[str | None, str | None] = (None, None)
    optional: frozenset[str] = frozenset()
    normalization: str = "none"
    subtracts_bias: bool = True
    bias: str = "b_dec"
    folded: bool = False
    uses_decoder: str | None = None

    @property
    def sides(self) -> set[str]:
        """Which of "in" and "out" a residual gauge acts on."""
        return {side for side, site in self.sites.items() if site != "off"}

    def rules_for(self, name: str) -> tuple[str, ...]:
        """Return the axes of a tensor. Raises ``KeyError`` if no rule names it."""
        return self.rules[re.sub(r"\.\d+\.", ".*.", name)]

    @property
    def note(self) -> str | None:
        """Say what is left as it is because it is on heads or neurons; None if nothing is."""
        absent = sorted({"in", "out"} - self.sides)
        if not absent:
            return None
        where = " and ".join(f"{side}put" for side in absent)
        return f"{where} on heads or neurons (hooks {list(self.hooks)}): invariant under a residual gauge"


def site_named(hook: str | None, what: str, advice: str) -> Site:
    """Return the site of a hook; None stands for the stream. Raises ``ValueError`` for an unknown one."""
    site: Site | None = "stream"
    if hook is not None:
        site = site_of(hook) if isinstance(hook, str) else None
    if site is None:
        raise ValueError(
            f"cannot tell whether {what} {hook!r} is on the residual stream, on heads or on neurons; {advice}"
        )
    return site


def axes_of(sae: SAEDescription, tensors: Mapping[str, Tensor]) -> Axes:
    """Return the declared axes of every tensor.

    Raises:
        ValueError: If a tensor is missing, has no rule, or has another shape.
    """
    missing = [n for n in sae.rules if "*" not in n and n not in tensors and n not in sae.optional]
    if missing:
        raise ValueError(f"this {sae.kind} has no {', '.join(missing)}; it holds {', '.join(tensors)}")
    axes_by_name = {}
    for name, tensor in tensors.items():
        axes = sae.rules.get(re.sub(r"\.\d+\.", ".*.", name))
        if axes is None:
            raise ValueError(f"{name} matches no rule of the {sae.kind}; known: {', '.join(sae.rules)}")
        if tensor.dim() != len(axes) or any(
            sae.sizes.get(a, n) != n for a, n in zip(axes, tensor.shape, strict=True)
        ):
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; its axes are {axes} of sizes {dict(sae.sizes)}"
            )
        axes_by_name[name] = axes
    return axes_by_name


def check_covariance(sae: SAEDescription, g: Element) -> None:
    """Raise ``ValueError`` if the moved SAE would be another function."""
    for side in sorted(sae.sides):
        if sae.sizes[side] != g.size:
            raise ValueError(
                f"the gauge has width {g.size}; this {sae.kind} has {SIZE_NAMES[side]}={sae.sizes[side]}"
            )
    if sae.sides and isinstance(g, AffineGauge) and g.scale != 1:
        raise ValueError(
            f"an affine gauge with scale {g.scale:.4g} would change what the SAE computes; allowed: scale 1, "
            "as in AffineGauge(g.linear, g.shift / g.scale), for activations divided by g.scale"
        )
    behind_gains = [side for side, site in sae.sites.items() if site == "gain"]
    if behind_gains and isinstance(linear_part(g), Orthogonal) and not sae.folded:
        raise ValueError(
            f"the {'put and '.join(behind_gains)}put of this {sae.kind} (hooks {list(sae.hooks)}) is behind "
            f"the gain of a norm, where a rotation ({g.group!r}) does not act as on the stream. Fold the "
            "gain, by fold_gains(model) and fold_sae(sae, gain), or use a signed permutation"
        )
    if "in" not in sae.sides:
        return
    mode = sae.normalization
    if mode == "covariance_whitening":
        raise ValueError(
            "normalize_activations='covariance_whitening' is not folded: the SAE does not hold the "
            "whitening's mean and matrix, which are stream coordinates. Call "
            "sae.fold_activation_whitening(...) first; folded, it is covariant under 'orthogonal'"
        )
    if mode not in COVARIANT_UNDER:
        raise ValueError(f"unknown normalize_activations={mode!r}; allowed: {', '.join(COVARIANT_UNDER)}")
    group = COVARIANT_UNDER[mode]
    if not contains(group, g):
        subgroups = (
            "" if group == "orthogonal" else ", which contains 'permutation' and 'global_sign_permutation'"
        )
        raise ValueError(
            f"normalize_activations={mode!r} is covariant under {group!r}{subgroups}; "
            f"a gauge of group {g.group!r} would make another function"
        )
    if isinstance(g, AffineGauge) and not sae.subtracts_bias:
        raise ValueError(
            f"apply_b_dec_to_input=False: the encoder does not subtract {sae.bias} and would see the shift "
            "of an affine gauge; it is covariant under 'orthogonal': pass g.linear"
        )


def moved_axes(sae: SAEDescription, tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the axes of each tensor that a gauge acts on.

    Raises:
        ValueError: If a tensor is missing, has no rule, or has another shape or dtype than can be moved.
    """
    axes = axes_of(sae, tensors)
    moving = {name: tuple(i for i, a in enumerate(axes[name]) if a in sae.sides) for name in tensors}
    for name, tensor in tensors.items():
        if moving[name] and tensor.dtype not in MOVABLE_DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in MOVABLE_DTYPES)
            raise ValueError(f"{name} is {tensor.dtype}; allowed: {allowed}")
    return moving


@torch.no_grad()
def move_into(
    sae: SAEDescription,
    g: Element,
    tensors: Mapping[str, Tensor],
    moving: Mapping[str, tuple[int, ...]],
    targets: Mapping[str, Tensor],
) -> None:
    """Write the moved tensors of an SAE into others of the same shapes.

    Args:
        sae: The SAE's description.
        g: The gauge. An :class:`AffineGauge` moves the decoder's bias as a point.
        tensors: The tensors to read.
        moving: The axes that move, from :func:`moved_axes`.
        targets: The tensors to write to.
    """
    with InPlace(linear_part(g)) as act:
        for name, tensor in tensors.items():
            if isinstance(g, AffineGauge) and name == sae.bias and moving[name]:
                targets[name].copy_(g.act(tensor.detach().double()))
            else:
                act.vector_into(tensor.detach(), moving[name], targets[name])


def record_of(
    sae: SAEDescription,
    g: Element,
    moving: Mapping[str, tuple[int, ...]],
    provenance: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return what is recorded of a transport. Raises ``ValueError`` if the provenance is not JSON."""
    try:
        stored = json.loads(json.dumps(provenance or {}))
    except (TypeError, ValueError) as e:
        raise ValueError(f"provenance: expected JSON values; {e}") from e
    record = {
        "group": g.group,
        "width": g.size,
        "digest": gauge_digest(g),
        "moved": [name for name, axes in moving.items() if axes],
        "provenance": stored,
    }
    return record if sae.note is None else {**record, "note": sae.note}


def was_folded(records: Any) -> bool:
    """Return whether one of an SAE's records says that a norm's gain was folded into it."""
    return isinstance(records, list) and any(isinstance(r, dict) and "folded" in r for r in records)


def gauge_digest(g: Element) -> str:
    """Return sixteen hexadecimal digits that name the content of a gauge, the same in every process."""
    digest = hashlib.sha256(json.dumps([g.group, g._metadata()]).encode())
    for name, tensor in sorted(g._tensors().items()):
        digest.update(name.encode())
        digest.update((tensor + 0).contiguous().numpy().tobytes())  # + 0: -0.0 equals 0.0
    return digest.hexdigest()[:16]
