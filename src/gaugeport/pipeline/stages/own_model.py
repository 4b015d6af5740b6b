"""The model that a user provides, a folder or a GGUF file: checked before anything is built or trained."""

from __future__ import annotations

from pathlib import Path

from gaugeport.charts.chart import family_of
from gaugeport.models.configs import causal_config, read_config
from gaugeport.models.folders import read_json
from gaugeport.models.loading import check_model


def check_own_model(path: Path) -> None:
    """Check the files of a model and its tokenizer, and that its architecture has a chart.

    Args:
        path: A folder, or a ``.gguf`` file, of which the structure alone is checked.

    Raises:
        FileNotFoundError: Something of a folder is missing.
        ValueError: The path is another file, or something in it is damaged, unknown or not a plain model.
    """
    check_model(path, tokenizer=True)
    if path.is_dir():
        family_of(own_model_type(path))


def own_model_type(folder: Path) -> str:
    """Return the architecture of the causal language model in a folder that has been checked."""
    config = read_config(folder, read_json(folder / "config.json"))
    return str(causal_config(str(folder), config).model_type)
