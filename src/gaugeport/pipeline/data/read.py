"""Rows of local files and hub datasets -> documents.

Local files are streamed through `datasets`, which leaves no cache behind: what is read is what the file holds now.
"""

import glob
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import datasets
from tqdm import tqdm

from gaugeport.pipeline.data.document import Document

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": ("json", {}),
    ".csv": (
        "csv",
        {"keep_default_na": False},
    ),  # else a text that reads "NA" or "null" is taken for a missing one
    ".txt": ("text", {}),
    ".parquet": ("parquet", {}),
}
"""File extension -> builder of `datasets` and its options."""


def local_rows(path: str | Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a .jsonl, .csv, .txt (one document a line, blank lines skipped, field `text`) or .parquet file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown extension, a folder, an empty file, or a file that cannot be parsed.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} has the extension {path.suffix!r}; allowed: {', '.join(FORMATS)}")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path.absolute()}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; allowed: one file ending in {', '.join(FORMATS)}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    builder, options = FORMATS[path.suffix.lower()]
    where = glob.escape(str(path.absolute()))  # datasets reads data_files as a pattern
    try:
        rows = datasets.load_dataset(builder, data_files=where, split="train", streaming=True, **options)
        for row in rows:
            if builder != "text" or row["text"].strip():
                yield row
    except (ValueError, UnicodeError) as error:  # pyarrow's and pandas' parse errors are ValueErrors
        raise ValueError(f"{path} cannot be read as {path.suffix.lower()}: {error}") from error


def documents_from(
    rows: Iterable[Mapping[str, Any]],
    source: str,
    field: str,
    kind: str = "text",
    label: str | int | None = None,
    max_documents: int | None = None,
) -> list[Document]:
    """The documents in the rows, all in domain 0, in order; a text that was there before is left out.

    Args:
        source: what error messages call the rows.
        field: the field that holds the text.
        label: the field that holds 0 or 1 (-1 and null mean unlabelled), or one label for all, or none.
        max_documents: stop after this many rows.

    Raises:
        ValueError: no rows, no such field (the fields found are named), a text that is empty or no string, a label
            that is not 0 or 1, max_documents below 1.
    """
    if max_documents is not None and max_documents < 1:
        raise ValueError(f"max_documents is {max_documents}; it must be at least 1")
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{source} holds no documents")
    for wanted in (field, label):
        if isinstance(wanted, str) and wanted not in first:
            raise ValueError(f"{source} has no field {wanted!r}; found: {', '.join(first)}")
    found: dict[str, Document] = {}
    shown = tqdm(
        islice(chain([first], rows), max_documents), desc="reading", unit=" documents", delay=2, disable=None
    )
    for number, row in enumerate(shown, start=1):
        text = row.get(field)
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{source}, row {number}: field {field!r} holds {type(text).__name__}, not text")
        if not text or not text.strip():
            raise ValueError(f"{source}, row {number}: the document is empty")
        value = row.get(label) if isinstance(label, str) else label
        found.setdefault(text, Document(text, kind, 0, _label(value, f"{source}, row {number}")))
    return list(found.values())


def _label(value: Any, where: str) -> int | None:
    if value is None or value in ("", -1, "-1"):
        return None
    if value in (0, 1, "0", "1"):
        return int(value)
    raise ValueError(f"{where}: the label is {value!r}; allowed: 0, 1, or -1 for unlabelled")
