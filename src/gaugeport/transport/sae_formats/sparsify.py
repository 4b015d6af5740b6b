"""Read a folder of EleutherAI's sparsify (https://github.com/EleutherAI/sparsify, ``sparse_coder.py``).

It holds ``cfg.json`` and ``sae.safetensors``. Its config does not say where the SAE sits; the folder is named
after the module (``layers.6``, ``h.3.mlp``), with a folder ``seed0`` below it where there are several. An SAE
is on the module's output; a transcoder reads its input and writes its output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaugeport.transport.sae_description import SAEDescription, site_named, was_folded
from gaugeport.transport.sae_formats.stored import StoredSAE, rows_of, top_k, whole_number, with_record
from gaugeport.transport.sae_rules import Axes
from gaugeport.transport.sae_sites import Site, input_site_of, site_of
from gaugeport.utils.tensor_files import read_json, read_tensors

NAME, WEIGHTS_FILE, CONFIG_FILE = "sparsify", "sae.safetensors", "cfg.json"

RULES: Axes = {
    "encoder.weight": ("latent", "in"),
    "encoder.bias": ("latent",),
    "W_dec": ("latent", "out"),
    "b_dec": ("out",),
    "W_skip": ("out", "in"),
}


def read(folder: Path, hook: str | None, hook_out: str | None) -> StoredSAE:
    """Read an SAE or transcoder.

    Args:
        folder: The folder.
        hook: The name of its input's hook, if the folder is not named after the module.
        hook_out: The name of its output's hook; None for the same.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, or the hook is unknown, or the config has an option that keeps
            tensors elsewhere.
    """
    config = read_json(folder / CONFIG_FILE)
    weights, metadata = read_tensors(folder / WEIGHTS_FILE)
    if config.get("gram_lookup"):
        raise ValueError(
            "gram_lookup=true: the SAE needs a table of mean activations, in stream coordinates, which is "
            "not in its folder; such an SAE cannot be moved alone"
        )
    transcodes = bool(config.get("transcode"))
    module = _module_of(folder)
    d_in = whole_number(config, "d_in")
    description = SAEDescription(
        kind="sparsify transcoder" if transcodes else "sparsify SAE",
        rules=RULES,
        sizes={"in": d_in, "out": d_in, "latent": rows_of(weights, "encoder.weight")},
        sites=_sites(module, transcodes, hook, hook_out),
        hooks=(hook or module, (hook_out or hook or module) if transcodes else None),
        optional=frozenset({"W_skip"}),
        subtracts_bias=not transcodes and "W_skip" not in weights,
        folded=was_folded(config.get("gaugeport")),
    )
    return StoredSAE(
        folder=folder,
        weights_file=WEIGHTS_FILE,
        config_file=CONFIG_FILE,
        weights=weights,
        metadata=metadata,
        config=config,
        description=description,
    )


def recorded(config: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Return the config with one more transport. sparsify ignores fields it does not know."""
    return with_record(config, record)


def reconstruct(config: dict[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return what an SAE or transcoder makes of activations, as ``SparseCoder.forward`` does.

    Args:
        config: Its config.
        tensors: Its tensors.
        x: [n, d_in].

    Raises:
        ValueError: If its activation function is unknown.
    """
    read_from = x if config.get("transcode") else x - tensors["b_dec"]
    pre = torch.relu(read_from @ tensors["encoder.weight"].T + tensors["encoder.bias"])
    activation, k = config.get("activation", "topk"), whole_number(config, "k")
    if activation == "topk":
        latents = top_k(pre, k)
    elif activation == "groupmax":  # the largest of each of k groups
        latents = top_k(pre.unflatten(-1, (k, -1)), 1).flatten(-2)
    else:
        raise ValueError(f"the config's activation: {activation!r}; known: topk, groupmax")
    out = latents @ tensors["W_dec"] + tensors["b_dec"]
    return out + x @ tensors["W_skip"].T if "W_skip" in tensors else out


def _module_of(folder: Path) -> str | None:
    """Return the module that a folder is named after, or None if its name is another one."""
    named = folder.resolve()
    name = named.parent.name if re.fullmatch(r"seed\d+", named.name) else named.name
    return name if site_of(name) is not None else None


def _sites(module: str | None, transcodes: bool, hook: str | None, hook_out: str | None) -> dict[str, Site]:
    advice = "name a TransformerLens hook or transformers module"
    if hook is not None or hook_out is not None or module is None:
        return {
            "in": site_named(hook, "hook", advice),
            "out": site_named(hook_out or hook, "hook_out", advice),
        }
    output = site_named(module, "the folder's name", advice)
    return {"in": input_site_of(module) if transcodes else output, "out": output}
