"""Move a sae-lens SAE or transcoder to another residual basis; its latents stay what they are.

With ``x' = g·x`` the moved SAE has ``latents'(x') = latents(x)`` and ``recon'(x') = g·recon(x)``: rows of
``W_enc``, columns of ``W_dec`` and ``b_dec`` are vectors of the stream; everything else lives in latent
coordinates. ``sae_rules.py`` declares which axis is which. A parameter that no rule names is refused.
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

from gaugeport.groups import AffineGauge, Element, contains
from gaugeport.transport.axis import InPlace
from gaugeport.transport.directions import linear_part
from gaugeport.transport.sae_rules import ARCHITECTURES, COVARIANT_UNDER, OFF_STREAM, ON_STREAM, Axes

if TYPE_CHECKING:
    from sae_lens import SAE

AnySAE = TypeVar("AnySAE", bound="SAE[Any]")

MOVABLE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def transport_sae(
    sae: AnySAE, g: Element, provenance: dict[str, Any] | None = None, out: AnySAE | None = None
) -> AnySAE:
    """Return the SAE for activations ``g·x``: the same latents, and reconstructions moved by ``g``.

    Whether the SAE sits on the residual stream is read from ``cfg.metadata.hook_name`` (and
    ``hook_name_out``); without a name it is on the stream, unless its config names a head. An SAE on heads
    or neurons is invariant under a residual gauge: a copy is returned, with a note in its record and a
    warning. Whether ``g`` is a gauge of the *model* is not checked here; the model's chart says it.

    Args:
        sae: A sae-lens SAE or transcoder of a known architecture. It is not changed.
        g: The gauge, of the SAE's width. An :class:`AffineGauge` moves ``b_dec`` as a point.
        provenance: Where the gauge comes from, as JSON values, for the record.
        out: An SAE of the same shapes that is no longer needed. The result is written into its memory,
            because new memory costs more time than the transport.

    Returns:
        A new object of the same class, dtype, device and ``requires_grad``, without hooks. Its
        ``cfg.metadata["gaugeport"]`` lists all transports so far (group, width and digest of the gauge, the
        moved parameters, ``provenance``) and survives ``save_model`` and ``load_from_disk``.

    Raises:
        TypeError: If ``sae`` is not an SAE or ``g`` is not a gauge element.
        ValueError: If the architecture, a parameter, a dtype or a hook name is unknown; if the width of ``g``
            does not fit; if ``normalize_activations`` does not commute with ``g``, or whitening is not
            folded; if ``g`` is affine and the encoder does not subtract ``b_dec``; if ``provenance`` is not
            JSON; if ``out`` does not fit.
    """
    if not hasattr(sae, "named_parameters"):
        raise TypeError(
            f"expected an SAE object, got {type(sae).__name__}; sae_lens.SAE.load_from_disk reads a folder"
        )
    linear = linear_part(g)
    # 1) find what moves, and check that the result is covariant
    tensors = {**dict(sae.named_parameters()), **dict(sae.named_buffers())}
    axes = _axes_of(sae, tensors)
    sides = _sides_on_stream(sae)
    _check_covariance(sae, g, sides)
    moved_axes = {name: tuple(i for i, a in enumerate(axes[name]) if a in sides) for name in tensors}
    moved_names = [name for name in tensors if moved_axes[name]]
    for name in moved_names:
        if tensors[name].dtype not in MOVABLE_DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in MOVABLE_DTYPES)
            raise ValueError(f"{name} is {tensors[name].dtype}; allowed: {allowed}")
    record = _record(g, moved_names, provenance)
    if absent := {"in", "out"} - sides:
        hooks = [sae.cfg.metadata.hook_name, sae.cfg.metadata.hook_name_out]
        where = " and ".join(f"{side}put" for side in sorted(absent))
        record["note"] = f"{where} on heads or neurons (hooks {hooks}): invariant under a residual gauge"
        warnings.warn(f"transport_sae: {record['note']}; left as it is", stacklevel=2)
    # 2) move it
    moved = _empty_twin(sae, tensors, out)
    targets = moved.state_dict()
    with torch.no_grad(), InPlace(linear) as act:
        for name, tensor in tensors.items():
            if isinstance(g, AffineGauge) and name == "b_dec" and moved_axes[name]:
                targets[name].copy_(g.act(tensor.detach().double()))
            else:
                act.vector_into(tensor.detach(), moved_axes[name], targets[name])
    # 3) record it
    moved.cfg.metadata["gaugeport"] = [*(moved.cfg.metadata.get("gaugeport") or []), record]
    return moved


def gauge_digest(g: Element) -> str:
    """Return sixteen hexadecimal digits that name the content of a gauge, the same in every process."""
    digest = hashlib.sha256(json.dumps([g.group, g._metadata()]).encode())
    for name, tensor in sorted(g._tensors().items()):
        digest.update(name.encode())
        digest.update((tensor + 0).contiguous().numpy().tobytes())  # + 0: -0.0 equals 0.0
    return digest.hexdigest()[:16]


def _axes_of(sae: SAE[Any], tensors: dict[str, Tensor]) -> Axes:
    """Return the declared axes of every parameter and buffer, and check their sizes."""
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
    axes_by_name = {}
    for name, tensor in tensors.items():
        axes = rules.get(re.sub(r"\.\d+\.", ".*.", name))
        if axes is None:
            raise ValueError(f"{name} matches no rule of the {architecture} SAE; known: {', '.join(rules)}")
        if tensor.dim() != len(axes) or any(
            sizes.get(a, n) != n for a, n in zip(axes, tensor.shape, strict=True)
        ):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; its axes are {axes} of sizes {sizes}")
        axes_by_name[name] = axes
    return axes_by_name


def _d_out(sae: SAE[Any]) -> int:
    return getattr(sae.cfg, "d_out", sae.cfg.d_in)


def _sides_on_stream(sae: SAE[Any]) -> set[str]:
    """Return which of "in" and "out" are coordinates of the residual stream."""
    metadata = sae.cfg.metadata
    reads = _is_on_stream(sae, "hook_name", metadata.hook_name)
    is_transcoder = hasattr(sae.cfg, "d_out")
    writes = _is_on_stream(sae, "hook_name_out", metadata.hook_name_out) if is_transcoder else reads
    return {side for side, on_stream in (("in", reads), ("out", writes)) if on_stream}


def _is_on_stream(sae: SAE[Any], key: str, hook: str | None) -> bool:
    """Say whether a hook is on the residual stream. Raises ``ValueError`` for an unknown one."""
    if hook is None:
        return sae.cfg.reshape_activations != "hook_z" and sae.cfg.metadata.hook_head_index is None
    if OFF_STREAM.fullmatch(hook):
        return False
    if not ON_STREAM.fullmatch(hook):
        raise ValueError(
            f"cannot tell whether {key} {hook!r} is on the residual stream, on heads or on neurons; set "
            f"sae.cfg.metadata.{key} to a TransformerLens hook or transformers module, or to None for the "
            "stream"
        )
    return True


def _check_covariance(sae: SAE[Any], g: Element, sides: set[str]) -> None:
    """Raise ``ValueError`` if the moved SAE would be another function."""
    cfg, mode = sae.cfg, sae.cfg.normalize_activations
    for side, key, width in (("in", "d_in", cfg.d_in), ("out", "d_out", _d_out(sae))):
        if side in sides and width != g.size:
            raise ValueError(f"the gauge has width {g.size}; this {cfg.architecture()} SAE has {key}={width}")
    if "in" not in sides:
        return
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
    if isinstance(g, AffineGauge) and not cfg.apply_b_dec_to_input:
        raise ValueError(
            "apply_b_dec_to_input=False: the encoder does not subtract b_dec and would see the shift of an "
            "affine gauge; it is covariant under 'orthogonal': pass g.linear"
        )


def _record(g: Element, moved_names: list[str], provenance: dict[str, Any] | None) -> dict[str, Any]:
    try:
        stored = json.loads(json.dumps(provenance or {}))
    except (TypeError, ValueError) as e:
        raise ValueError(f"provenance: expected JSON values; {e}") from e
    return {
        "group": g.group,
        "width": g.size,
        "digest": gauge_digest(g),
        "moved": moved_names,
        "provenance": stored,
    }


def _empty_twin(sae: AnySAE, tensors: dict[str, Tensor], out: AnySAE | None) -> AnySAE:
    """Return an SAE like ``sae`` on unwritten memory, or on that of ``out``.

    A deep copy would keep closures that write to ``sae``.
    """
    memory = _new_memory(tensors) if out is None else _memory_of(out, tensors)
    cfg = copy.deepcopy(sae.cfg)
    cfg.device = "meta"
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # the constructor gave its warnings when ``sae`` was made
        twin = type(sae)(cfg)
    twin.cfg.device, twin.device, twin.dtype = sae.cfg.device, sae.device, sae.dtype
    twin.load_state_dict(memory, assign=True)
    for name, parameter in sae.named_parameters():
        twin.get_parameter(name).requires_grad_(parameter.requires_grad)
    if twin.hook_z_reshaping_mode and not sae.hook_z_reshaping_mode:
        twin.turn_off_forward_pass_hook_z_reshaping()
    twin._use_error_term = sae._use_error_term  # the property would warn
    return twin.train(sae.training)


def _new_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: torch.empty_like(t.detach(), memory_format=torch.contiguous_format)
        for name, t in tensors.items()
    }


def _memory_of(out: SAE[Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of ``out``. Raises ``ValueError`` if they do not fit or share the SAE's memory."""
    out_tensors = out.state_dict()
    source_memory = {t.untyped_storage().data_ptr() for t in tensors.values() if not t.is_meta}
    memory = {}
    for name, t in tensors.items():
        memory[name] = target = out_tensors.get(name, torch.empty(0))
        if (target.shape, target.dtype, target.device) != (t.shape, t.dtype, t.device):
            raise ValueError(f"out has no {name} of shape {tuple(t.shape)}, {t.dtype} on {t.device}")
        if not target.is_meta and target.untyped_storage().data_ptr() in source_memory:
            raise ValueError(f"{name} of out shares its memory with the SAE to be moved")
    return memory
