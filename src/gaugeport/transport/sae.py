"""Move a sae-lens SAE or transcoder to another residual basis; its latents stay what they are.

With ``x' = g·x`` the moved SAE has ``latents'(x') = latents(x)`` and ``recon'(x') = g·recon(x)``: rows of
``W_enc``, columns of ``W_dec`` and ``b_dec`` are vectors of the stream; everything else lives in latent
coordinates. ``sae_rules.py`` declares which axis is which. A parameter that no rule names is refused.
SAEs of other libraries are moved as files (``sae_file.py``).
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from gaugeport.groups import Element, check_is_element
from gaugeport.transport.sae_description import (
    SAEDescription,
    check_covariance,
    move_into,
    moved_axes,
    record_of,
    site_named,
    was_folded,
)
from gaugeport.transport.sae_rules import ARCHITECTURES, use_of_decoder
from gaugeport.transport.sae_sites import Site

if TYPE_CHECKING:
    from sae_lens import SAE

AnySAE = TypeVar("AnySAE", bound="SAE[Any]")


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
        TypeError: If ``sae`` is not an SAE of sae-lens, or ``g`` is not a gauge element.
        ValueError: If the architecture, a parameter, a dtype or a hook name is unknown; if the width of ``g``
            does not fit; if ``normalize_activations`` does not commute with ``g``, or whitening is not
            folded; if ``g`` is affine and has a scale, or the encoder does not subtract ``b_dec``; if
            ``provenance`` is not JSON; if ``out`` does not fit.
    """
    if not hasattr(sae, "named_parameters"):
        raise TypeError(
            f"expected an SAE object, got {type(sae).__name__}; sae_lens.SAE.load_from_disk reads a folder, "
            "and transport_sae_file moves one"
        )
    check_is_element(g)
    # 1) find what moves, and check that the result is covariant
    description = describe_sae(sae)
    tensors = {**dict(sae.named_parameters()), **dict(sae.named_buffers())}
    moving = moved_axes(description, tensors)
    check_covariance(description, g)
    record = record_of(description, g, moving, provenance)
    if description.note is not None:
        warnings.warn(f"transport_sae: {description.note}; left as it is", stacklevel=2)
    # 2) move it
    moved = empty_twin(sae, tensors, out)
    move_into(description, g, tensors, moving, moved.state_dict())
    # 3) record it
    moved.cfg.metadata["gaugeport"] = [*(moved.cfg.metadata.get("gaugeport") or []), record]
    return moved


def describe_sae(sae: SAE[Any]) -> SAEDescription:
    """Describe a sae-lens SAE or transcoder.

    Args:
        sae: The SAE.

    Returns:
        Which axes of which of its parameters are in stream coordinates, and what its encoder does first.

    Raises:
        TypeError: If it is a module of another library.
        ValueError: If its architecture or one of its hook names is unknown.
    """
    cfg = getattr(sae, "cfg", None)
    if not callable(getattr(cfg, "architecture", None)) or not hasattr(cfg, "normalize_activations"):
        raise TypeError(
            f"expected an SAE or transcoder of sae-lens, got {type(sae).__module__}.{type(sae).__name__}; "
            "SAEs of sparsify and dictionary_learning are moved as the folders they are saved in, by "
            "transport_sae_file"
        )
    metadata, architecture = sae.cfg.metadata, sae.cfg.architecture()
    rules = ARCHITECTURES.get(architecture)
    if rules is None:
        raise ValueError(
            f"no rules for the SAE architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    if getattr(sae.cfg, "tied_weights", False):
        rules = {n: a for n, a in rules.items() if n != "W_enc"}
    is_transcoder = hasattr(sae.cfg, "d_out")
    keys = {"in": "hook_name", "out": "hook_name_out" if is_transcoder else "hook_name"}
    on_a_head = sae.cfg.reshape_activations == "hook_z" or metadata.hook_head_index is not None
    sites: dict[str, Site] = {}
    for side, key in keys.items():
        advice = (
            f"set sae.cfg.metadata.{key} to a TransformerLens hook or transformers module, or to None for "
            "the stream"
        )
        unnamed_head = metadata[key] is None and on_a_head
        sites[side] = "off" if unnamed_head else site_named(metadata[key], key, advice)
    return SAEDescription(
        kind=f"{architecture} SAE",
        rules=rules,
        sizes={"in": sae.cfg.d_in, "out": getattr(sae.cfg, "d_out", sae.cfg.d_in), "latent": sae.cfg.d_sae},
        sites=sites,
        hooks=(metadata.hook_name, metadata.hook_name_out),
        normalization=sae.cfg.normalize_activations,
        subtracts_bias=sae.cfg.apply_b_dec_to_input,
        folded=was_folded(metadata.get("gaugeport")),
        uses_decoder=use_of_decoder(architecture, getattr(sae.cfg, "rescale_acts_by_decoder_norm", False)),
    )


def empty_twin(sae: AnySAE, tensors: dict[str, Tensor], out: AnySAE | None) -> AnySAE:
    """Return an SAE like another on unwritten memory. A deep copy would keep closures that write to it.

    Args:
        sae: The SAE to be like, in class, config, dtype, device and ``requires_grad``.
        tensors: Its parameters and buffers.
        out: An SAE whose memory is used; None for new memory.

    Raises:
        ValueError: If ``out`` does not fit, or shares its memory with ``sae``.
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
