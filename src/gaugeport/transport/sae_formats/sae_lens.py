"""Read a folder of sae-lens, of any version: ``cfg.json`` and ``sae_weights.safetensors``.

The config of version 6 keeps the hook's name in ``metadata``; older ones keep it at the top, and leave out
what was the only choice then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from gaugeport.transport.sae_description import SAEDescription, site_named, was_folded
from gaugeport.transport.sae_formats.stored import StoredSAE, whole_number, with_record
from gaugeport.transport.sae_rules import ARCHITECTURES, Axes, use_of_decoder
from gaugeport.utils.tensor_files import read_json, read_tensors

NAME, WEIGHTS_FILE, CONFIG_FILE = "sae-lens", "sae_weights.safetensors", "cfg.json"


def read(folder: Path, hook: str | None, hook_out: str | None) -> StoredSAE:
    """Read an SAE or transcoder.

    Args:
        folder: The folder.
        hook: The name of its input's hook, if not the one in the config.
        hook_out: The name of its output's hook, likewise.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or the architecture or a hook is unknown.
    """
    config = read_json(folder / CONFIG_FILE)
    weights, metadata = read_tensors(folder / WEIGHTS_FILE)
    about = config["metadata"] if isinstance(config.get("metadata"), dict) else config
    # 1) the architecture
    architecture = config.get("architecture") or "standard"
    if "topk" in (config.get("activation_fn"), config.get("activation_fn_str")):
        architecture = "topk"
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ValueError(
            f"no rules for the SAE architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    d_in = whole_number(config, "d_in")
    is_transcoder = "transcoder" in architecture
    # 2) the sites
    hook = hook or about.get("hook_name", about.get("hook_point"))
    hook_out = (hook_out or about.get("hook_name_out")) if is_transcoder else hook
    on_a_head = config.get("reshape_activations") == "hook_z" or about.get("hook_head_index") is not None
    advice = "name it by hook= (and hook_out=), as a TransformerLens hook or transformers module"
    named = {"in": ("hook_name", hook), "out": ("hook_name_out" if is_transcoder else "hook_name", hook_out)}
    description = SAEDescription(
        kind=f"{architecture} SAE",
        rules=_rules(architecture, config, weights),
        sizes={
            "in": d_in,
            "out": whole_number(config, "d_out") if is_transcoder else d_in,
            "latent": whole_number(config, "d_sae"),
        },
        sites={
            side: "off" if name is None and on_a_head else site_named(name, key, advice)
            for side, (key, name) in named.items()
        },
        hooks=(hook, hook_out if is_transcoder else None),
        optional=frozenset({"scaling_factor"}),
        normalization=_normalization(config.get("normalize_activations")),
        subtracts_bias=bool(config.get("apply_b_dec_to_input", not is_transcoder)),
        folded=was_folded(about.get("gaugeport")),
        uses_decoder=use_of_decoder(architecture, bool(config.get("rescale_acts_by_decoder_norm"))),
    )
    return StoredSAE(
        folder=folder,
        weights_file=WEIGHTS_FILE,
        config_file=CONFIG_FILE,
        weights=weights,
        metadata=metadata,
        config=config,
        description=description,
        invariant_files=("sparsity.safetensors",),  # one number per latent
    )


def recorded(config: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Return the config with one more transport: in ``metadata``, where sae-lens keeps it, if it has one."""
    if not isinstance(config.get("metadata"), dict):
        return with_record(config, record)
    return {**config, "metadata": with_record(config["metadata"], record)}


def _rules(architecture: str, config: dict[str, Any], weights: dict[str, Tensor]) -> Axes:
    rules: Axes = {**ARCHITECTURES[architecture], "scaling_factor": ("latent",)}
    if config.get("tied_weights"):
        del rules["W_enc"]
    if "threshold" in rules and "log_threshold" in weights:  # what version 3 saved
        rules["log_threshold"] = rules.pop("threshold")
    return rules


def _normalization(mode: Any) -> str:
    """Return the name of a normalisation, which older versions switched on and off."""
    if mode is None or mode is False:
        return "none"
    return "expected_average_only_in" if mode is True else str(mode)
