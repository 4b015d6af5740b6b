"""Read and write control vectors in GGUF files, as repeng (``ControlVector.export_gguf``) and llama.cpp do.

Such a file has the architecture ``controlvector`` and one tensor ``direction.N`` per layer. The pip package
``gguf`` is needed, and imported only here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gaugeport.models.gguf_reader import open_gguf, setting_of
from gaugeport.utils.tensor_files import first_line

ARCHITECTURE = "controlvector"
FLOATS = ("F16", "F32", "F64")
"""The types of tensors that a gauge can move; the others are quantized in blocks."""


def read_gguf_directions(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a control vector.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, is no control vector, or is quantized.
    """
    reader = open_gguf(path)
    settings = {name: setting_of(reader, name, path) for name in reader.fields}
    try:
        architecture = settings["general.architecture"]
        tensors = {t.name: torch.from_numpy(t.data.copy()) for t in reader.tensors}
        types = {t.name: t.tensor_type.name for t in reader.tensors}
    except Exception as e:  # a damaged file breaks in many places of the library
        raise ValueError(f"{path} is damaged or not a control vector: {first_line(e)}") from e
    if architecture != ARCHITECTURE:
        raise ValueError(
            f"{path}: expected a control vector (general.architecture={ARCHITECTURE!r}), got {architecture!r}"
        )
    quantized = [f"{name} ({kind})" for name, kind in types.items() if kind not in FLOATS]
    if quantized:
        raise ValueError(f"{path}: quantized tensors: {', '.join(quantized)}; allowed: {', '.join(FLOATS)}")
    return tensors


def write_gguf_directions(source: Path, tensors: Mapping[str, Tensor], out: Path) -> None:
    """Write a control vector with the settings of another one.

    Args:
        source: The file to take everything but the tensors from.
        tensors: The tensors, by the names that they have there.
        out: The file to write.
    """
    from gguf import GGUFValueType, GGUFWriter

    reader = open_gguf(source)
    writer = GGUFWriter(out, ARCHITECTURE, endianess=reader.endianess)
    writer.data_alignment = int(reader.alignment)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            is_list = field.types[0] == GGUFValueType.ARRAY
            value = setting_of(reader, name, source)
            writer.add_key_value(name, value, field.types[0], field.types[-1] if is_list else None)
    for name, t in tensors.items():
        writer.add_tensor(name, t.detach().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
