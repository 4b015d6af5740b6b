"""Read a model's config with transformers, and find the causal language model that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import gaugeport.models.dyck  # noqa: F401  (registers dyck3 with transformers' Auto classes)


def read_config(folder: Path, content: dict[str, Any]) -> Any:
    """Return the config of a folder as transformers reads it.

    Args:
        folder: The model folder.
        content: The JSON object in its ``config.json``.

    Raises:
        ValueError: If it names no architecture, one that transformers does not know, or is not valid.
    """
    model_type, file = content.get("model_type"), folder / "config.json"
    if not isinstance(model_type, str):
        raise ValueError(f"{file} names no architecture: expected a name as model_type, got {model_type!r}")
    if model_type not in CONFIG_MAPPING:
        code = "; the code that comes with it is never run" if "auto_map" in content else ""
        raise ValueError(
            f"{file} says model_type={model_type!r}, which transformers {transformers.__version__} does not "
            f"know{code}"
        )
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as e:  # config classes raise whatever their checks and conversions meet
        raise ValueError(f"{file} is not a valid config of {model_type!r}: {reason(e)}") from e


def causal_config(name: str, config: Any) -> Any:
    """Return the config of the causal language model: the config itself, or its text part.

    Args:
        name: The folder or hub id, for messages.
        config: The config as transformers reads it.

    Raises:
        ValueError: If a multimodal model's text part is no causal language model of its own.
    """
    text = _text_part(config)
    if text is config or type(text) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return text
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return config
    raise ValueError(
        f"{name} is a multimodal model (model_type={config.model_type!r}), and transformers "
        f"{transformers.__version__} has no causal language model for its text part "
        f"({text.model_type!r}): save its language model as a folder of its own, and pass that"
    )


def check_depth(name: str, config: Any, tensors: int | None) -> None:
    """Raise ``ValueError`` for a config with more blocks than the weights have tensors.

    Building such a model would take forever before anything else could be noticed.
    """
    blocks = getattr(_text_part(config), "num_hidden_layers", None)
    if isinstance(blocks, int) and tensors is not None and blocks > tensors:
        raise ValueError(
            f"{name} is damaged: its config says num_hidden_layers={blocks}, but its weights hold only "
            f"{tensors} tensors"
        )


def _text_part(config: Any) -> Any:
    """Return the text config of a multimodal config, and any other config itself."""
    text = getattr(config, "text_config", None) if "text_config" in type(config).sub_configs else None
    return config if text is None else text


def reason(e: BaseException, limit: int = 300) -> str:
    """Return an exception as one line of text."""
    text = " ".join(str(e).split()) or "no message"
    return f"{type(e).__name__}: {text[:limit]}{'…' if len(text) > limit else ''}"
