"""The model that a user provides, a folder or a GGUF file: checked before anything is built or trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaugeport.charts.chart import chart_of, family_of
from gaugeport.charts.tokens import position_limit
from gaugeport.models.configs import causal_config, read_config
from gaugeport.models.folders import read_json
from gaugeport.models.loading import check_model
from gaugeport.models.parameter_names import empty_model


def check_own_model(path: Path, length: int | None = None) -> None:
    """Check the files of a model and its tokenizer, and that its architecture has a chart.

    Args:
        path: A folder, or a ``.gguf`` file, of which the structure alone is checked.
        length: The length of the rows that it is to read, if that is to be checked.

    Raises:
        FileNotFoundError: Something of a folder is missing.
        ValueError: The path is another file, or something in it is damaged, unknown or not a plain model;
            or it has fewer positions than a row.
    """
    check_model(path, tokenizer=True)
    if not path.is_dir():
        return
    family = family_of(own_model_type(path))
    if length is None or all(rule.role != "position" for rule in family.rules):
        return
    model = empty_model(str(path), _config(path))
    positions = position_limit(chart_of(model), model)
    if positions is not None and length > positions:
        raise ValueError(
            f"data.length={length}: rows are longer than the {positions} positions of {path}; "
            f"allowed: data.length={positions} or less"
        )


def own_model_type(folder: Path) -> str:
    """Return the architecture of the causal language model in a folder that has been checked."""
    return str(_config(folder).model_type)


def _config(folder: Path) -> Any:
    return causal_config(str(folder), read_config(folder, read_json(folder / "config.json")))
