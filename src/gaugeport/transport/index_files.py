"""Move lists of coordinates from file to file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from gaugeport.groups import Element, check_is_element
from gaugeport.transport.folders import check_new_file, naming
from gaugeport.transport.indices import transport_indices
from gaugeport.utils.files import write_json
from gaugeport.utils.numpy_files import read_npy
from gaugeport.utils.tensor_files import existing_file, first_line


def transport_indices_file(
    source: str | Path,
    g: Element,
    out: str | Path,
    *,
    kept: Tensor | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write the lists of coordinates in a file in the coordinates of B, always as JSON.

    Reads ``.json`` (a list, or an object of lists by name), ``.txt`` (one index a line) and ``.npy`` (one
    axis of integers). Writes ``{"index": [...], "sign": [...], "dropped": [...]}``, or an object of these by
    name: an index alone would lose its sign.

    Args:
        source: The file. It is not changed.
        g: The gauge from A to B, a (signed) permutation; of an affine gauge, the linear part.
        out: The new ``.json`` file, written atomically.
        kept: bool[d], the coordinates of B whose assignment is trusted. Indices that land on another
            coordinate are left out and listed in ``dropped``, as indices of A.
        force: Replace what lies at ``out``.

    Returns:
        What was written.

    Raises:
        TypeError: If ``g`` is not a gauge element, or a list holds anything but integers.
        ValueError: If the file is damaged or of an unknown format; if ``g`` is a rotation; if indices are out
            of range or repeated; if ``kept`` does not fit; if ``out`` is the source. Nothing is written then.
        FileNotFoundError: If there is no such file.
        FileExistsError: If something already lies at ``out``, unless ``force``.
    """
    check_is_element(g)
    source, out = Path(source), Path(out)
    check_new_file(existing_file(source), out, ".json", force)
    with naming(source):
        lists = read_lists(source)
        named = lists if isinstance(lists, dict) else {"": lists}
        moved: dict[str, Any] = {}
        for name, indices in named.items():
            with naming(name or None):
                m = transport_indices(indices, g, kept=kept)
            moved[name] = {k: getattr(m, k).tolist() for k in ("index", "sign", "dropped")}
    result = moved if isinstance(lists, dict) else moved[""]
    write_json(out, result)
    return result


def read_lists(path: Path) -> Any:
    """Return the list of indices, or the dict of lists, in a file."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy(path)[0]
    if suffix not in (".json", ".txt"):
        raise ValueError(f"no reader for files named *{path.suffix}; allowed: .json, .txt, .npy")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if suffix == ".json":
            return json.loads(text)
        return [int(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as e:
        what = "JSON" if suffix == ".json" else "one integer a line"
        raise ValueError(f"expected {what}: {first_line(e)}") from e
