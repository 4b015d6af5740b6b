"""Keep the streams of one model in files while another model runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class KeptStreams:
    """The streams of a model on many batches, as float32 files that are read through memory maps.

    There is one file per site, so that memory holds one batch at a time, and a disk needs 4 bytes per token,
    site and coordinate.
    """

    def __init__(self, folder: Path, sites: Sequence[str]):
        """Begin with no batches.

        Args:
            folder: An existing folder, which the caller deletes.
            sites: The sites that every batch has.
        """
        self._paths = {site: folder / f"{site}.float32" for site in sites}
        self._lengths: list[int] = []
        self._width = 0

    @classmethod
    def of(cls, batches: Iterable[Mapping[str, Tensor]], folder: Path, sites: Sequence[str]) -> KeptStreams:
        """Keep batches of streams, site -> float[tokens, d], in a new folder."""
        folder.mkdir()
        kept = cls(folder, sites)
        for streams in batches:
            kept.append(streams)
        return kept

    def delete(self) -> None:
        """Delete the files."""
        for path in self._paths.values():
            path.unlink(missing_ok=True)

    def append(self, streams: Mapping[str, Tensor]) -> None:
        """Add a batch: site -> float[tokens, d]."""
        for site, path in self._paths.items():
            rows = streams[site].to("cpu", torch.float32).contiguous()
            with path.open("ab") as file:
                rows.numpy().tofile(file)
        self._lengths.append(len(rows))
        self._width = rows.shape[1]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches in order: site -> float32[tokens, d], in memory."""
        shape = (sum(self._lengths), self._width)
        maps = {
            site: np.memmap(path, np.float32, "r", shape=shape) if shape[0] else np.empty(shape, np.float32)
            for site, path in self._paths.items()
        }
        start = 0
        for length in self._lengths:
            yield {site: torch.from_numpy(np.array(m[start : start + length])) for site, m in maps.items()}
            start += length
