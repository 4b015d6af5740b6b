"""``gaugeport certify``: measure which gauge group is exact for a model."""

from __future__ import annotations

from dataclasses import asdict

import torch

from gaugeport.charts import certify, fold_gains
from gaugeport.tool.answer import Answer, Exit
from gaugeport.tool.opening import opener
from gaugeport.utils.progress import progress_bar


def certify_model(name: str, seed: int = 0, fold: bool = False) -> Answer:
    """Certify a model, in float32.

    Args:
        name: A folder, hub id or ``.gguf`` file.
        seed: Seed of the random elements and tokens.
        fold: Fold the gains into the readers first.
    """
    model = opener(name)()
    if fold:
        model = fold_gains(model)
    with progress_bar() as bar:
        found = certify(model, torch.Generator().manual_seed(seed), progress=bar)
    data = {**asdict(found), "exact": found.exact, "outside_breaks": found.outside_breaks}
    return Answer(str(found), data, Exit.DONE if found.exact else Exit.DOUBTFUL)
