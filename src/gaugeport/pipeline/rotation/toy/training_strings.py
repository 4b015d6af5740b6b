"""The strings that a Dyck-3 model is trained on, in the order in which it sees them."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import Dataset

from gaugeport.pipeline.rotation.toy import strings
from gaugeport.utils.seeds import generator

BLOCK = 8
"""Batches that are drawn at once."""


class TrainingStrings(Dataset):
    """Hold an unlimited supply of training strings, cut off after a number of batches.

    Batch ``k`` is drawn from the seed and ``k`` alone, so that a run resumes with the strings that it would
    have seen. Batches are drawn :data:`BLOCK` at a time.

    Args:
        batches: Number of batches.
        batch_size: Strings in a batch.
        longest: The longest string, in brackets.
        length: Tokens of a row.
        seed: Decides the strings.
        depth: The depth label, one of :data:`strings.DEPTH_LABELS`.
    """

    def __init__(
        self,
        batches: int,
        batch_size: int,
        longest: int,
        length: int,
        seed: int,
        depth: str = strings.UNMATCHED,
    ):
        self.batches = batches
        self.batch_size = batch_size
        self.longest = longest
        self.length = length
        self.seed = seed
        self.depth = depth
        self._drawn: tuple[int, dict[str, Tensor]] | None = None

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        rows = self.batch_size * BLOCK
        items = []
        for i in indices:
            block = self._block(i // rows)
            items.append({name: tensor[i % rows] for name, tensor in block.items()})
        return items

    def _block(self, number: int) -> dict[str, Tensor]:
        """Draw the batches of one block, or return the last block that was drawn."""
        if self._drawn is None or self._drawn[0] != number:
            first = number * BLOCK
            gens = [
                generator(self.seed, "strings", k) for k in range(first, min(first + BLOCK, self.batches))
            ]
            lengths = (strings.SHORTEST_LENGTH, self.longest)
            self._drawn = (
                number,
                strings.draw_batches(self.batch_size, lengths, self.length, gens, self.depth),
            )
        return self._drawn[1]
