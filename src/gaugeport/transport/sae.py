"""``transport_sae``: carry a sae-lens SAE or transcoder to another residual basis; its latents stay what they are.

With ``x' = g·x`` the moved SAE has ``latents'(x') = latents(x)`` and ``recon'(x') = g·recon(x)``: ``W_enc`` rows,
``W_dec`` columns and ``b_dec`` are vectors of the stream, everything else lives in latent coordinates. What is which
is declared in ``sae_rules.py``; a parameter that no rule names is refused (DESIGN §1, rows "SAE").
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from gaugeport.groups import AffineGauge, Element, check_is_element, contains
from gaugeport.transport.axis import InPlace
from gaugeport.transport.sae_rules import ARCHITECTURES, COVARIANT_UNDER, OFF_STREAM, ON_STREAM, Axes

if TYPE_CHECKING:
    from sae_lens import SAE

AnySAE = TypeVar("AnySAE", bound="SAE[Any]")


def transport_sae(
    sae: AnySAE, g: Element, provenance: dict[str, Any] | None = None, out: AnySAE | None = None
) -> AnySAE:
    """The SAE for activations ``g·x``: the same latents, and reconstructions moved by ``g``. ``sae`` is not changed.

    A new object of the same class, dtype, device and ``requires_grad`` flags (hooks are not carried). Its
    ``cfg.metadata["gaugeport"]`` lists every transport so far: group, width and digest of the gauge, the parameters
    moved, and ``provenance`` (anything JSON holds); it survives ``save_model`` and ``load_from_disk``.

    Where it sits is read from ``cfg.metadata.hook_name`` (and ``hook_name_out``); without a name, on the residual
    stream. An SAE on heads or neurons is invariant: a copy comes back, with a note in its record and a warning.
    That ``g`` is a gauge of the *model* is the chart's business. An ``AffineGauge`` moves ``b_dec`` as a point.

    ``out``: an SAE of the same shapes that is no longer needed; the result is written into its memory (fresh memory
    costs more than the transport).

    Raises ``ValueError`` for an unknown architecture, parameter or hook name, a gauge of another width, a
    ``normalize_activations`` that does not commute with ``g``, whitening that is not folded, an affine gauge where the
    encoder does not subtract ``b_dec``, a dtype that is no float, a provenance that is not JSON, and an unfit ``out``;
    ``TypeError`` for what is no SAE or no gauge element.
    """
    if not hasattr(sae, "named_parameters"):
        raise TypeError(
            f"an SAE object is wanted, found {type(sae).__name__}; sae_lens.SAE.load_from_disk reads a folder"
        )
    check_is_element(g)
    tensors = {**dict(sae.named_parameters()), **dict(sae.named_buffers())}
    axes = _axes_of(sae, tensors)
    ends = _ends_on_stream(sae)
    _check_covariance(sae, g, ends)
    moved_axes = {n: tuple(i for i, a in enumerate(axes[n]) if a in ends) for n in tensors}
    for name, tensor in tensors.items():
        if moved_axes[name] and tensor.dtype not in (
            torch.float16,
            torch.bfloat16,
            torch.float32,
            torch.float64,
        ):
            raise ValueError(
                f"{name} is {tensor.dtype}; a gauge moves float16, bfloat16, float32 and float64"
            )
    record = _record(g, [n for n in tensors if moved_axes[n]], provenance)
    if absent := {"in", "out"} - ends:
        hooks = [sae.cfg.metadata.hook_name, sae.cfg.metadata.hook_name_out]
        where = " and ".join(f"{end}put" for end in sorted(absent))
        record["note"] = f"{where} on heads or neurons (hooks {hooks}): invariant under a residual gauge"
        warnings.warn(f"transport_sae: {record['note']}; left as it is", stacklevel=2)

    moved = _empty_twin(sae, tensors, out)
    targets = moved.state_dict()
    with torch.no_grad(), InPlace(g.linear if isinstance(g, AffineGauge) else g) as act:  # type: ignore[arg-type]
        for name, tensor in tensors.items():
            if isinstance(g, AffineGauge) and name == "b_dec" and moved_axes[name]:
                targets[name].copy_(g.act(tensor.detach().double()))
            else:
                act.vector_into(tensor.detach(), moved_axes[name], targets[name])
    moved.cfg.metadata["gaugeport"] = [*(moved.cfg.metadata.get("gaugeport") or []), record]
    return moved


def gauge_digest(g: Element) -> str:
    """Sixteen hexadecimal digits naming the content of a gauge, the same in every process."""
    total = hashlib.sha256(json.dumps([g.group, g._metadata()]).encode())
    for name, tensor in sorted(g._tensors().items()):
        total.update(name.encode())
        total.update((tensor + 0).contiguous().numpy().tobytes())  # + 0: -0.0 equals 0.0
    return total.hexdigest()[:16]


def _axes_of(sae: SAE[Any], tensors: dict[str, Tensor]) -> Axes:
    """The declared axes of every parameter and buffer, their sizes checked."""
    architecture = sae.cfg.architecture()
    rules = ARCHITECTURES.get(architecture)
    if rules is None:
        raise ValueError(
            f"no rules for the SAE architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    if getattr(sae.cfg, "tied_weights", False):
        rules = {n: a for n, a in rules.items() if n != "W_enc"}
    missing = [n for n in rules if "*" not in n and n not in tensors]
    if missing:
        raise ValueError(
            f"this {architecture} SAE has no {', '.join(missing)}; it holds {', '.join(tensors)}"
        )
    sizes = {"in": sae.cfg.d_in, "out": _d_out(sae), "latent": sae.cfg.d_sae}
    found = {}
    for name, tensor in tensors.items():
        axes = rules.get(re.sub(r"\.\d+\.", ".*.", name))
        if axes is None:
            raise ValueError(f"{name} matches no rule of the {architecture} SAE; known: {', '.join(rules)}")
        if tensor.dim() != len(axes) or any(
            sizes.get(a, n) != n for a, n in zip(axes, tensor.shape, strict=True)
        ):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; its axes are {axes} of sizes {sizes}")
        found[name] = axes
    return found


def _d_out(sae: SAE[Any]) -> int:
    return getattr(sae.cfg, "d_out", sae.cfg.d_in)


def _ends_on_stream(sae: SAE[Any]) -> set[str]:
    """Which of "in" and "out" are coordinates of the residual stream."""
    metadata = sae.cfg.metadata

    def on_stream(key: str, name: str | None) -> bool:
        if name is None:
            return sae.cfg.reshape_activations != "hook_z" and metadata.hook_head_index is None
        if OFF_STREAM.fullmatch(name):
            return False
        if not ON_STREAM.fullmatch(name):
            raise ValueError(
                f"cannot tell whether {key} {name!r} is on the residual stream, on heads or on neurons; set "
                f"sae.cfg.metadata.{key} to a TransformerLens hook or transformers module, or to None for the stream"
            )
        return True

    reads = on_stream("hook_name", metadata.hook_name)
    writes = on_stream("hook_name_out", metadata.hook_name_out) if hasattr(sae.cfg, "d_out") else reads
    return {end for end, there in (("in", reads), ("out", writes)) if there}


def _check_covariance(sae: SAE[Any], g: Element, ends: set[str]) -> None:
    """Raise ``ValueError`` where the moved SAE would be another function."""
    cfg, mode = sae.cfg, sae.cfg.normalize_activations
    for end, key, width in (("in", "d_in", cfg.d_in), ("out", "d_out", _d_out(sae))):
        if end in ends and width != g.size:
            raise ValueError(f"the gauge has width {g.size}; this {cfg.architecture()} SAE has {key}={width}")
    if "in" not in ends:
        return
    if mode == "covariance_whitening":
        raise ValueError(
            "normalize_activations='covariance_whitening' is not folded: the whitening's mean and matrix are stream "
            "coordinates that the SAE does not hold. Call sae.fold_activation_whitening(...) first; folded, it is "
            "covariant under 'orthogonal'"
        )
    if mode not in COVARIANT_UNDER:
        raise ValueError(f"unknown normalize_activations={mode!r}; allowed: {', '.join(COVARIANT_UNDER)}")
    group = COVARIANT_UNDER[mode]
    if not contains(group, g):
        inside = "" if group == "orthogonal" else ", which holds 'permutation' and 'global_sign_permutation'"
        raise ValueError(
            f"normalize_activations={mode!r} is covariant under {group!r}{inside}; "
            f"a gauge of group {g.group!r} makes another function in general"
        )
    if isinstance(g, AffineGauge) and not cfg.apply_b_dec_to_input:
        raise ValueError(
            "apply_b_dec_to_input=False: the encoder does not subtract b_dec and would see the shift of an affine "
            "gauge; it is covariant under 'orthogonal': pass g.linear"
        )


def _record(g: Element, moved: list[str], provenance: dict[str, Any] | None) -> dict[str, Any]:
    try:
        stored = json.loads(json.dumps(provenance or {}))
    except (TypeError, ValueError) as e:
        raise ValueError(f"provenance must be what JSON can hold: {e}") from e
    return {
        "group": g.group,
        "width": g.size,
        "digest": gauge_digest(g),
        "moved": moved,
        "provenance": stored,
    }


def _empty_twin(sae: AnySAE, tensors: dict[str, Tensor], out: AnySAE | None) -> AnySAE:
    """An SAE like ``sae`` on unwritten memory. (A deep copy would keep closures that write to the first SAE.)"""
    memory, held = {}, {} if out is None else out.state_dict()
    taken = {t.untyped_storage().data_ptr() for t in tensors.values() if not t.is_meta}
    for name, t in tensors.items():
        if out is None:
            memory[name] = torch.empty_like(t.detach(), memory_format=torch.contiguous_format)
            continue
        memory[name] = there = held.get(name, torch.empty(0))
        if (there.shape, there.dtype, there.device) != (t.shape, t.dtype, t.device):
            raise ValueError(f"out has no {name} of shape {tuple(t.shape)}, {t.dtype} on {t.device}")
        if not there.is_meta and there.untyped_storage().data_ptr() in taken:
            raise ValueError(f"{name} of out shares its memory with the SAE to be moved")
    cfg = copy.deepcopy(sae.cfg)
    cfg.device = "meta"
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # what the constructor says, it said when ``sae`` was made
        twin = type(sae)(cfg)
    twin.cfg.device, twin.device, twin.dtype = sae.cfg.device, sae.device, sae.dtype
    twin.load_state_dict(memory, assign=True)
    for name, parameter in sae.named_parameters():
        twin.get_parameter(name).requires_grad_(parameter.requires_grad)
    if twin.hook_z_reshaping_mode and not sae.hook_z_reshaping_mode:
        twin.turn_off_forward_pass_hook_z_reshaping()
    twin._use_error_term = sae._use_error_term  # the property would warn
    return twin.train(sae.training)
