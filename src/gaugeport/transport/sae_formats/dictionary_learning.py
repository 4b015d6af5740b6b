"""Read a folder of dictionary_learning (https://github.com/saprmarks/dictionary_learning, ``dictionary.py``).

It holds ``config.json``, whose ``trainer.dict_class`` names the class, and ``ae.pt``, the state dict. The
encoder and decoder of most classes are ``nn.Linear`` modules, whose weights are [out, in]; two classes keep
matrices as sae-lens does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaugeport.transport.sae_description import SAEDescription, site_named, was_folded
from gaugeport.transport.sae_formats.stored import StoredSAE, rows_of, top_k, with_record
from gaugeport.transport.sae_rules import BIAS, STREAM, THRESHOLD, Axes
from gaugeport.transport.sae_sites import Site, input_site_of
from gaugeport.utils.tensor_files import read_json, read_tensors

NAME, WEIGHTS_FILE, CONFIG_FILE = "dictionary_learning", "ae.pt", "config.json"

LINEAR: Axes = {"encoder.weight": ("latent", "in"), "decoder.weight": ("out", "latent")}
TOP_K: Axes = LINEAR | {"encoder.bias": ("latent",), "b_dec": ("out",), "k": (), "threshold": ()}

CLASSES: dict[str, tuple[Axes, str, bool]] = {
    "AutoEncoder": (LINEAR | {"encoder.bias": ("latent",), "bias": ("out",)}, "bias", True),
    "AutoEncoderNew": (
        LINEAR | {"encoder.bias": ("latent",), "decoder.bias": ("out",)},
        "decoder.bias",
        False,
    ),
    "GatedAutoEncoder": (
        LINEAR | {"decoder_bias": ("out",), **{n: ("latent",) for n in ("r_mag", "gate_bias", "mag_bias")}},
        "decoder_bias",
        True,
    ),
    "JumpReluAutoEncoder": (STREAM | BIAS | THRESHOLD, "b_dec", False),
    "AutoEncoderTopK": (TOP_K, "b_dec", True),
    "BatchTopKSAE": (TOP_K, "b_dec", True),
    "MatryoshkaBatchTopKSAE": (
        STREAM | BIAS | {"k": (), "threshold": (), "group_sizes": ("group",)},
        "b_dec",
        True,
    ),
}
"""Of each class: its tensors' axes, its decoder's bias, and whether the encoder subtracts that."""

SCALED_BY_DECODER = ("GatedAutoEncoder", "JumpReluAutoEncoder")
"""Classes whose latents are multiplied by the norms of the decoder's columns."""

BUFFERS = {
    "AutoEncoderTopK": "k",
    "BatchTopKSAE": "threshold",
    "MatryoshkaBatchTopKSAE": "threshold",
    "JumpReluAutoEncoder": "threshold",
}
"""Of each class with sparse latents: the buffer that says which are active."""

OPTIONAL = frozenset({"k", "threshold", "group_sizes"})
"""Buffers that earlier versions of the classes did not have."""

SUBMODULE_NAMES = re.compile(r"(?:(?:resid|mlp|attn)_(?:pre|mid|post|in|out)_layer_?\d+|embed)")
"""How the library's scripts name what is on the stream. Other names are read as hooks."""


def read(folder: Path, hook: str | None, hook_out: str | None) -> StoredSAE:
    """Read an SAE.

    Args:
        folder: The folder.
        hook: The name of its input's hook, if the config does not name it or names it otherwise.
        hook_out: The name of its output's hook; None for the same.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or the class or the hook is unknown.
    """
    config = read_json(folder / CONFIG_FILE)
    weights, _ = read_tensors(folder / WEIGHTS_FILE)
    trainer = config.get("trainer")
    name = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or not isinstance(name, str) or name not in CLASSES:
        raise ValueError(
            f"{CONFIG_FILE}: no rules for trainer.dict_class={name!r}; known: {', '.join(CLASSES)}"
        )
    rules, bias, subtracts = CLASSES[name]
    named = {n.removeprefix("_orig_mod."): t for n, t in weights.items()}
    linear = "encoder.weight" in rules
    d_in = rows_of(named, "encoder.weight", 1) if linear else rows_of(named, "W_enc")
    d_sae = rows_of(named, "encoder.weight") if linear else rows_of(named, "W_enc", 1)
    submodule = trainer.get("submodule_name")
    description = SAEDescription(
        kind=f"{name} of dictionary_learning",
        rules=rules,
        sizes={"in": d_in, "out": d_in, "latent": d_sae},
        sites=_sites(config, submodule, hook, hook_out),
        hooks=(hook or submodule, hook_out),
        optional=OPTIONAL - ({"threshold"} if name == "JumpReluAutoEncoder" else set()),
        subtracts_bias=subtracts,
        bias=bias,
        folded=was_folded(config.get("gaugeport")),
        uses_decoder="they are scaled by its norms" if name in SCALED_BY_DECODER else None,
    )
    return StoredSAE(
        folder=folder,
        weights_file=WEIGHTS_FILE,
        config_file=CONFIG_FILE,
        weights=weights,
        metadata={},
        config=config,
        description=description,
    )


def recorded(config: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Return the config with one more transport; the library reads ``trainer`` and ``buffer`` only."""
    return with_record(config, record)


def reconstruct(config: dict[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return what an SAE makes of activations, as ``forward`` of its class does.

    Args:
        config: Its config.
        tensors: Its tensors.
        x: [n, d_in].

    Raises:
        ValueError: If a buffer is missing that decides which latents are active.
    """
    name, t = config["trainer"]["dict_class"], tensors
    rules, bias, subtracts = CLASSES[name]
    if "encoder.weight" in rules:
        encoder, decoder = t["encoder.weight"].T, t["decoder.weight"].T
    else:
        encoder, decoder = t["W_enc"], t["W_dec"]
    pre = (x - t[bias] if subtracts else x) @ encoder
    if name == "GatedAutoEncoder":
        latents = (pre + t["gate_bias"] > 0) * torch.relu(t["r_mag"].exp() * pre + t["mag_bias"])
    else:
        latents = torch.relu(pre + t["encoder.bias" if "encoder.bias" in rules else "b_enc"])
    needed = BUFFERS.get(name)
    if needed is not None and needed not in t:
        raise ValueError(f"this {name} has no {needed}, which decides which of its latents are active")
    if needed == "k":
        latents = top_k(latents, int(t["k"]))
    elif needed == "threshold":
        latents = latents * (latents > t["threshold"])
    return latents @ decoder + t[bias]


def _sites(config: dict[str, Any], submodule: Any, hook: str | None, hook_out: str | None) -> dict[str, Site]:
    """Return the sites. ``buffer.io`` says whether the SAE reads a module's input or its output."""
    advice = "name it by hook= (and hook_out=), as a TransformerLens hook or transformers module"
    if hook is not None or hook_out is not None:
        return {
            "in": site_named(hook, "hook", advice),
            "out": site_named(hook_out or hook, "hook_out", advice),
        }
    if submodule is not None and not isinstance(submodule, str):
        raise ValueError(f"trainer.submodule_name: expected text, got {submodule!r}; {advice}")
    if submodule is None or SUBMODULE_NAMES.fullmatch(submodule):
        output: Site = "stream"
    else:
        output = site_named(submodule, "trainer.submodule_name", advice)
    buffer = config.get("buffer")
    io = buffer.get("io", "out") if isinstance(buffer, dict) else "out"
    if io not in ("in", "out", "in_and_out"):
        raise ValueError(f"buffer.io={io!r}; allowed: in, out, in_and_out")
    read_site = output if io == "out" or submodule is None else _input_site(submodule)
    return {"in": read_site, "out": read_site if io == "in" else output}


def _input_site(submodule: str) -> Site:
    if SUBMODULE_NAMES.fullmatch(submodule):
        return "gain" if submodule.startswith(("mlp_out", "attn_out")) else "stream"
    return input_site_of(submodule)
