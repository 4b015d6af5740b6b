"""Read rows of local files, and make documents of rows.

Local files are streamed through ``datasets``, which then writes no cache: a reader gets what the file holds
now.
"""

import glob
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gaugeport.texts.document import Document
from gaugeport.utils.files import expanded

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".jsonl": ("json", {}),
    # keep_default_na=False: a text that reads "NA" or "null" is a text, not a missing value
    ".csv": ("csv", {"keep_default_na": False}),
    ".txt": ("text", {}),
    ".parquet": ("parquet", {}),
}
"""File extension -> builder of ``datasets`` and its options."""


def local_rows(path: str | Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a .jsonl, .csv, .txt or .parquet file.

    A .txt file has one document per line, in the field ``text``; blank lines are skipped.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: unknown extension, a folder, an empty file, or a file that cannot be parsed.
    """
    path = expanded(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} has the extension {path.suffix!r}; allowed: {', '.join(FORMATS)}")
    if not path.exists():
        raise FileNotFoundError(f"path does not exist: {path.absolute()}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file; allowed: a file ending in {', '.join(FORMATS)}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    import datasets  # here: whoever reads no file does without it

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
    leave_out_undecided: bool = False,
) -> list[Document]:
    """Make documents of rows, all in domain 0 and in order; a repeated text is left out.

    Where a text is repeated, the row that labels it counts.

    Args:
        rows: the rows, field -> value.
        source: the name of the rows in error messages.
        field: name of the field with the text.
        kind: kind of the documents.
        label: name of the field with the label (0 or 1; -1 and null mean unlabelled), one label for all rows,
            or None.
        max_documents: the most rows to read, at least 1.
        leave_out_undecided: leave out texts that have both labels, with a warning.

    Raises:
        ValueError: no rows, a missing field, a text that is empty or not a string, a label that is not
            allowed, a text with both labels, or ``max_documents`` below 1.
    """
    if max_documents is not None and max_documents < 1:
        raise ValueError(f"max_documents={max_documents}; allowed: 1 or more")
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{source} has no documents")
    for name in (field, label):
        if isinstance(name, str) and name not in first:
            raise ValueError(f"{source} has no field {name!r}; allowed: {', '.join(first)}")
    documents: dict[str, Document] = {}
    undecided: dict[str, int] = {}
    limited = islice(chain([first], rows), max_documents)
    progress = tqdm(limited, desc="reading", unit=" documents", delay=2, disable=None)
    for number, row in enumerate(progress, start=1):
        text = row.get(field)
        if text is not None and not isinstance(text, str):
            raise ValueError(
                f"{source}, row {number}: expected text in field {field!r}, got {type(text).__name__}"
            )
        if not text or not text.strip():
            raise ValueError(f"{source}, row {number}: the document is empty")
        value = row.get(label) if isinstance(label, str) else label
        document = Document(text, kind, 0, _label(value, f"{source}, row {number}"))
        kept = documents.setdefault(text, document)
        if kept.label is None:
            documents[text] = document
        elif document.label not in (None, kept.label):
            undecided.setdefault(text, number)
    if undecided:
        text, number = next(iter(undecided.items()))
        said = f"{source} gives both labels to {len(undecided)} of its texts, in row {number} to {text!r}"
        if not leave_out_undecided:
            raise ValueError(f"{said}; allowed: one label for a text")
        warnings.warn(f"{said}; they are left out", stacklevel=2)
    return [document for text, document in documents.items() if text not in undecided]


def _label(value: Any, where: str) -> int | None:
    """Return a label as an integer, or None for unlabelled."""
    if value is None or value in ("", -1, "-1"):
        return None
    if value in (0, 1, "0", "1"):
        return int(value)
    raise ValueError(f"{where}: label={value!r}; allowed: 0, 1, or -1 for unlabelled")
