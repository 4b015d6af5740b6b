"""Read a GGUF file: dequantise it once with transformers, as a model or as an ordinary Hugging Face folder.

The pip package ``gguf`` is needed, and imported only here.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from gaugeport.models.configs import reason
from gaugeport.models.gguf_header import check_gguf
from gaugeport.models.gguf_reader import open_gguf, setting_of
from gaugeport.models.parameter_names import empty_model

SUFFIX = ".gguf"


def is_gguf(path: str | Path | None) -> bool:
    """Return whether a path has the name of a GGUF file, and is no folder."""
    return path is not None and str(path).lower().endswith(SUFFIX) and not Path(path).is_dir()


def existing(path: Path) -> Path:
    """Return the path of a GGUF file. Raises ``FileNotFoundError`` if there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"path does not exist: {path} (expected a {SUFFIX} file)")
    return path


def load_gguf(path: Path, dtype: torch.dtype = torch.float32, attn_implementation: str | None = None) -> Any:
    """Dequantise a GGUF file into a causal language model in evaluation mode.

    The model is built anew from the config and the weights: ``save_pretrained`` refuses the one that
    transformers reads, which it still takes for quantised.

    Args:
        path: The GGUF file.
        dtype: The floating dtype of the parameters.
        attn_implementation: Passed to transformers (``"eager"``, ``"sdpa"``, ...).

    Returns:
        The transformers model.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, its architecture is unknown, or it is missing parameters.
    """
    _check_sizes(path)
    model, info = _read(
        AutoModelForCausalLM, path, dtype=dtype, output_loading_info=True, trust_remote_code=False
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(f"{path} is missing parameters of {type(model).__name__}: {', '.join(missing[:8])}")
    # 1) a config that no longer says "quantised"
    config = model.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path", "dtype"):
        config.pop(key, None)
    clean = AutoConfig.for_model(config.pop("model_type"), **config)
    # 2) the same weights in a model of that config
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    with torch.random.fork_rng():
        rebuilt = AutoModelForCausalLM.from_config(clean, dtype=dtype, **options)
    rebuilt.load_state_dict(model.state_dict())
    rebuilt.generation_config = model.generation_config
    return rebuilt.eval()


def load_gguf_tokenizer(path: Path) -> Any:
    """Load the tokenizer of a GGUF file, with its chat template.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or has no tokenizer.
    """
    return _read(AutoTokenizer, path, trust_remote_code=False)


def convert_gguf(path: Path, folder: Path) -> None:
    """Write a GGUF file as an ordinary Hugging Face folder, float32 and not quantised.

    Args:
        path: The GGUF file.
        folder: An existing folder, which gets the config, the weights, the tokenizer and the chat template.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, its architecture is unknown, or it is missing parameters.
    """
    load_gguf(path).save_pretrained(folder)
    load_gguf_tokenizer(path).save_pretrained(folder)


def describe_gguf(path: Path) -> dict[str, str]:
    """Return what a GGUF file says of itself: ``licence``, and ``quantisation``, the type of most of its
    matrices.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged.
    """
    reader = open_gguf(path)
    licence = setting_of(reader, "general.license", path)
    types = Counter(t.tensor_type.name for t in reader.tensors if len(t.shape) > 1)
    return {
        "licence": "" if licence is None else str(licence),
        "quantisation": types.most_common(1)[0][0] if types else "",
    }


def _check_sizes(path: Path) -> None:
    """Raise ``ValueError`` if a file describes a model twice as large as its tensors or larger.

    transformers would allocate and initialise that model before it notices.
    """
    config = _read(AutoConfig, path)
    described = sum(p.numel() for p in empty_model(str(path), config).parameters())
    stored = check_gguf(path)
    if described > 2 * stored:
        raise ValueError(
            f"{path} is damaged: it describes a model of {described} parameters, its tensors hold {stored}"
        )


def _read(loader: Any, path: Path, **options: Any) -> Any:
    """Call ``loader.from_pretrained`` on a GGUF file, with an error that names the file."""
    check_gguf(existing(path))
    _check_package()
    # the progress bar of dequantising is not one of those that transformers can hide
    shown = transformers_logging.is_progress_bar_enabled()
    hidden = contextlib.nullcontext() if shown else contextlib.redirect_stderr(io.StringIO())
    try:
        with hidden:
            return loader.from_pretrained(str(path.parent), gguf_file=path.name, **options)
    except Exception as e:  # the reader of a damaged file raises whatever breaks first
        raise ValueError(f"cannot read {path}: {reason(e)}") from e


def _check_package() -> None:
    import gguf  # noqa: F401  (transformers needs it; the command line names what is missing)
