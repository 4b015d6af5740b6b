"""Open a GGUF file and read its settings; what is damaged is a ``ValueError`` that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaugeport.models.gguf_header import check_gguf
from gaugeport.utils.tensor_files import existing_file, first_line


def open_gguf(path: Path) -> Any:
    """Return the ``gguf.GGUFReader`` of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or no GGUF file.
    """
    from gguf import GGUFReader

    check_gguf(existing_file(path))
    try:
        return GGUFReader(path)
    except Exception as e:  # it reads a damaged file until something breaks
        raise ValueError(f"{path} is damaged or not a GGUF file: {first_line(e)}") from e


def setting_of(reader: Any, name: str, path: Path) -> Any:
    """Return the value of a setting, None if the file has none of that name.

    Raises ``ValueError`` if it cannot be read: a text that is not UTF-8.
    """
    field = reader.fields.get(name)
    try:
        return None if field is None else field.contents()
    except Exception as e:  # texts are decoded only now
        raise ValueError(f"{path} is damaged: its setting {name} cannot be read: {first_line(e)}") from e
