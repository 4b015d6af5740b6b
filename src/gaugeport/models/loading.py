"""Load models and tokenizers from a local folder, a GGUF file or the hub.

No remote code is run. Weights are safetensors, or ``.bin`` files that are read with ``weights_only``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from gaugeport.models.configs import causal_config, reason
from gaugeport.models.folders import (
    check_folder,
    check_tokenizer_files,
    local_folder,
    read_headers,
    some,
    weight_files,
)
from gaugeport.models.gguf_files import existing, is_gguf, load_gguf, load_gguf_tokenizer
from gaugeport.models.gguf_header import check_gguf
from gaugeport.models.parameter_names import TEXT_PART, does_not_match, empty_model, match_names
from gaugeport.utils.devices import missing_features
from gaugeport.utils.files import expanded


def load_model(
    path_or_id: str | Path,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
) -> Any:
    """Load a causal language model in evaluation mode. No parameter is ever newly initialised.

    Of a multimodal checkpoint its language model is loaded, with a warning. Warns about a 16-bit dtype on a
    CPU without AMX or AVX512-BF16, where models run about 100 times slower.

    Args:
        path_or_id: A local folder, a ``.gguf`` file (which is dequantised), or a hub id.
        dtype: A torch dtype or its name (``"float32"``, ``"bfloat16"``, ...); None for the stored one, and
            float32 for a GGUF file.
        device: The device; None for the CPU.
        attn_implementation: Passed to transformers (``"eager"``, ``"sdpa"``, ...).
        revision: A branch or commit on the hub.
        device_map: Where accelerate puts the parts of a model that one device cannot hold: a device's name,
            ``"auto"`` (GPUs first, then memory, then disk), or module -> device. What it offloads can run,
            and so be aligned by its activations, but not be transported, folded, merged or certified.

    Returns:
        The transformers model.

    Raises:
        FileNotFoundError: If the folder, ``config.json``, the weights, or a shard named in the index
            is missing.
        ValueError: If :func:`~gaugeport.models.folders.check_folder` finds a fault, such as a damaged file,
            a config that is not valid, quantized weights or a leftover adapter; if the checkpoint is missing
            parameters or has them in another shape; if a multimodal model's text part is no causal language
            model; if the hub cannot be reached; if ``device_map`` goes with ``device`` or a GGUF file, or
            needs accelerate where that is not installed.
    """
    if device_map is not None and (device is not None or is_gguf(path_or_id)):
        given = (
            f"device={str(device)!r}" if device is not None else "a .gguf file, which is dequantised whole"
        )
        raise ValueError(f"device_map={device_map!r} cannot go with {given}: leave one of them out")
    if is_gguf(path_or_id):
        asked = as_dtype(dtype or torch.float32)
        asked = asked if isinstance(asked, torch.dtype) else torch.float32
        model = load_gguf(expanded(path_or_id), asked, attn_implementation)
        return _placed(model, device)
    # 1) what the folder holds, and the config of the causal language model in it
    folder = local_folder(path_or_id)
    if folder is not None:
        check_folder(folder)
    name = str(folder if folder is not None else path_or_id)
    whole = _from_hub(AutoConfig, name, "config.json", revision=revision, trust_remote_code=False)
    config = causal_config(name, whole)
    text_part = config is not whole
    if folder is not None:
        _check_shapes(folder, config, text_part)
    # 2) the weights
    options: dict[str, Any] = {"trust_remote_code": False, "weights_only": True, "output_loading_info": True}
    options["ignore_mismatched_sizes"] = True  # they are reported below, all at once
    if revision is not None:
        options["revision"] = revision
    if dtype is not None:
        options["dtype"] = as_dtype(dtype)
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if device_map is not None:
        options["device_map"] = device_map
    if text_part:
        options |= {"config": config, "key_mapping": TEXT_PART}
    with _only_errors() if text_part else nullcontext():
        model, info = _from_hub(AutoModelForCausalLM, name, "the weights", **options)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"{name} holds a model and an adapter, which transformers has applied to its weights: pass a "
            "model without adapter_config.json, and apply the adapter with peft"
        )
    # 3) whether they fill the model, and nothing is left over
    missing, mismatched = sorted(info["missing_keys"]), sorted(str(k) for k in info["mismatched_keys"])
    if missing or mismatched:
        raise does_not_match(name, model, missing, mismatched)
    unused = sorted(info["unexpected_keys"])
    if text_part:
        model._weight_conversions = None  # else save_pretrained would write the multimodal names
        warnings.warn(
            f"{name} is a multimodal {whole.model_type}: its language model {type(model).__name__} is "
            f"loaded, and {len(unused)} other tensors are left out",
            stacklevel=2,
        )
    elif unused:
        warnings.warn(
            f"checkpoint {name} has weights that the model does not use: {some(unused)}", stacklevel=2
        )
    return _placed(model.eval(), device)


def check_model(path_or_id: str | Path, tokenizer: bool = False) -> None:
    """Check the files of a model as far as that needs no tensors. A hub id passes.

    Args:
        path_or_id: A local folder, a ``.gguf`` file, or a hub id.
        tokenizer: Also require the files of a tokenizer.

    Raises:
        FileNotFoundError: If the path does not exist, or a folder lacks something.
        ValueError: As :func:`~gaugeport.models.folders.check_folder`, or a GGUF file is damaged.
    """
    if is_gguf(path_or_id):
        check_gguf(existing(expanded(path_or_id)))
        return
    folder = local_folder(path_or_id)
    if folder is not None:
        check_folder(folder)
        if tokenizer:
            check_tokenizer_files(folder)


def load_tokenizer(path_or_id: str | Path, revision: str | None = None) -> Any:
    """Load the tokenizer of a local folder, GGUF file or hub id.

    Args:
        path_or_id: A local folder, a ``.gguf`` file, or a hub id.
        revision: A branch or commit on the hub.

    Raises:
        FileNotFoundError: If the folder or its tokenizer files are missing.
        ValueError: If the files cannot be read or are git-lfs pointers, or the hub cannot be reached.
    """
    if is_gguf(path_or_id):
        return load_gguf_tokenizer(expanded(path_or_id))
    folder = local_folder(path_or_id)
    if folder is not None:
        check_tokenizer_files(folder)
    name = str(folder if folder is not None else path_or_id)
    return _from_hub(AutoTokenizer, name, "the tokenizer", trust_remote_code=False, revision=revision)


def hide_progress_bars() -> None:
    """Hide transformers' progress bars of loading and saving, which would bury the job counter."""
    transformers_logging.disable_progress_bar()


def as_dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    """Return the floating torch dtype of a name. A dtype and ``"auto"`` are returned as they are.

    Raises ``ValueError`` for any other value.
    """
    allowed = {
        "float64": torch.float64,
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }
    if dtype == "auto" or dtype in allowed.values():
        return dtype
    if isinstance(dtype, str) and dtype.removeprefix("torch.") in allowed:
        return allowed[dtype.removeprefix("torch.")]
    raise ValueError(f"unknown dtype {dtype!r}; allowed: auto, {', '.join(allowed)}")


def _placed(model: Any, device: torch.device | str | None) -> Any:
    """Return a model on a device; warn if it will be slow there."""
    if device is not None:
        model = model.to(device)
    missing = missing_features(model.dtype) if model.device.type == "cpu" else ()
    if missing:
        warnings.warn(
            f"{model.dtype} on this CPU can take over 100 times as long as float32 (it has none of "
            f"{', '.join(missing)}); to run the model, load it with dtype='float32'",
            stacklevel=3,
        )
    return model


def _from_hub(loader: Any, name: str, what: str, **options: Any) -> Any:
    """Call ``loader.from_pretrained``, with errors that say ``what`` could not be loaded."""
    try:
        return loader.from_pretrained(name, **options)
    except (OSError, HFValidationError) as e:
        if Path(name).is_dir():
            raise ValueError(f"cannot load {what} from the folder {name}: {reason(e)}") from e
        raise ValueError(
            f"cannot get {what} of {name!r} from the Hugging Face hub, and there is no such local folder. "
            f"Download it elsewhere and pass the folder (in a run: model.path=DIR). The hub's error: "
            f"{_first_line(e)}"
        ) from e
    except Exception as e:  # files of others fail wherever their content first makes no sense
        raise ValueError(f"cannot load {what} from {name}: {reason(e)}") from e


def _check_shapes(folder: Path, config: Any, text_part: bool) -> None:
    """Raise ``ValueError`` if a tensor has another shape than in the config, before memory is allocated."""
    if any(f.suffix != ".safetensors" for f in weight_files(folder)):
        return
    shapes = {name: t.shape for header in read_headers(folder) for name, t in header.tensors.items()}
    model = empty_model(str(folder), config)
    names = match_names(model, shapes, text_part)
    if names.mismatched and not names.converted:
        raise does_not_match(str(folder), model, names.missing, names.mismatched)


@contextmanager
def _only_errors() -> Iterator[None]:
    """Hide transformers' list of unused tensors, which is a line for each tensor of a vision tower."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _first_line(e: Exception) -> str:
    return str(e).strip().split("\n")[0]
