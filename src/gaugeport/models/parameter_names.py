"""Say which parameter of a model each tensor of a checkpoint is, without loading either.

Names in files and in models differ: transformers has renamed parameters (GPT-NeoX's ``embed_out`` is now
``lm_head``), and checkpoints of a base model lack its prefix. The renaming is transformers' own, applied to a
model on the meta device, which has names and shapes but no memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from gaugeport.models.configs import reason
from gaugeport.models.folders import some

TEXT_PART = {r"^(?:model\.)?(?:language_model|text_model)\.(?:model\.)?": ""}
"""How a multimodal checkpoint's names become those of its language model. transformers adds the prefix of the
base model where it is needed."""

OLD_BUFFERS = (r"\brotary_emb\.inv_freq$", r"(^|\.)position_ids$", r"\battn\.masked_bias$")
"""Names of buffers that older releases saved, beside those that a model class lists. No gauge moves them."""


@dataclass(frozen=True)
class Names:
    """The tensors of a checkpoint, sorted by what they are to a model.

    Attributes:
        parameters: Name in the file -> name in the model. Of two tied parameters the first name stands for
            both.
        old_buffers: Names in the file of buffers that the model no longer saves.
        unknown: Names in the file that are nothing to the model.
        converted: Names in the file of tensors that transformers merges or splits on loading.
        missing: Names in the model that the file lacks.
        mismatched: A line for each tensor whose shape is not the parameter's.
    """

    parameters: dict[str, str]
    old_buffers: tuple[str, ...]
    unknown: tuple[str, ...]
    converted: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]


def empty_model(name: str, config: Any) -> Any:
    """Return the causal language model of a config on the meta device, where it takes no memory.

    Raises ``ValueError``, which names the folder ``name``, if no model can be built from the config.
    """
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as e:  # a config whose values contradict each other fails wherever they meet
        raise ValueError(f"cannot build a model from config.json in {name}: {reason(e)}") from e


def match_names(model: Any, shapes: Mapping[str, tuple[int, ...]], text_part: bool = False) -> Names:
    """Match the tensors of a checkpoint to the parameters of a model.

    Args:
        model: A model of transformers; on the meta device if you like.
        shapes: Name in the file -> shape.
        text_part: Whether the file is a multimodal checkpoint, and the model its language model.
    """
    expected = model.state_dict()
    first_name: dict[int, str] = {}
    alias_of = {
        name: first_name.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)
    }
    changes = get_model_conversion_mapping(model, TEXT_PART if text_part else None)
    renamings = [c for c in changes if isinstance(c, WeightRenaming)]
    converters = [c for c in changes if isinstance(c, WeightConverter)]
    prefix = model.base_model_prefix
    parameters: dict[str, str] = {}
    unknown, converted, mismatched = [], [], []
    for name in sorted(shapes):
        new, pattern = rename_source_key(name, renamings, converters, prefix, expected)
        if new not in expected and name in expected:
            new, pattern = name, None
        if pattern is not None:
            converted.append(name)
        elif new not in expected:
            unknown.append(name)
        else:
            parameters[name] = alias_of.get(new, new)
            if tuple(shapes[name]) != tuple(expected[new].shape):
                mismatched.append(f"{name} {tuple(shapes[name])}, expected {tuple(expected[new].shape)}")
    optional = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    wanted = {alias_of.get(name, name) for name in expected if not any(re.search(p, name) for p in optional)}
    old = [name for name in unknown if _is_old_buffer(model, name)]
    return Names(
        parameters=parameters,
        old_buffers=tuple(old),
        unknown=tuple(name for name in unknown if name not in old),
        converted=tuple(converted),
        missing=tuple(sorted(wanted - set(parameters.values()))),
        mismatched=tuple(mismatched),
    )


def does_not_match(name: str, model: Any, missing: Sequence[str], mismatched: Sequence[str]) -> ValueError:
    """Return the error for a checkpoint that does not fill its model."""
    return ValueError(
        f"checkpoint {name} does not match {type(model).__name__}: it is missing parameters "
        f"{some(list(missing))} and has another shape for {some(list(mismatched))}"
    )


def _is_old_buffer(model: Any, name: str) -> bool:
    listed = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in (*OLD_BUFFERS, *listed))
