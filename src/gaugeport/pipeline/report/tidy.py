"""Turn records into tidy rows, one measurement each, and average them over training seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gaugeport.pipeline.job import UNCOUNTED_DEFAULTS
from gaugeport.pipeline.report.intervals import Pair, pairs_interval_of
from gaugeport.pipeline.store.records import Record

COLUMNS = [
    *(
        "table",
        "profile",
        "model",
        "seed",
        "setting",
        "group",
        "matcher",
        "route",
        "evidence",
        "site",
        "step",
    ),
    *("metric", "value", "ci_low", "ci_high", "n", "paper", "verdict"),
]
"""The first columns of every table's csv; a column that does not apply is empty."""

MAIN_MODELS = ("tinyllama", "smollm2")
"""The models that have every condition: that of the profiles mini and paper, and that of real."""

ITSELF = ("identical", "self")
"""Targets that are A in other coordinates: a fine-tuned model, and a model as it is."""

UNIFORM_SHARE = 0.5
"""The share p of positive signs of gauges that are planted uniformly, as in records that do not say it."""

KEYS = [c for c in COLUMNS if c not in ("seed", "value", "ci_low", "ci_high", "n", "paper", "verdict")]


def tidy(
    table: str,
    records: Sequence[Record],
    settings: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
) -> pd.DataFrame:
    """Return one row per measurement of the records.

    Measurements override the job's own columns (a row may name its model). The last column, ``record``, is
    the id of the record that a row is from. Where seeds are compared with others than seed 0, ``anchor`` says
    with which.

    Args:
        table: The table's id.
        records: Its records.
        settings: Name of an ablation -> config path of what it varies (``{"lr": "training.run.lr"}``). Its
            rows get the ``setting`` ``lr=0.003``, and every row a column ``lr`` with the value it was run at.
        extra: Columns that the table has even where no row has them.
    """
    rows = []
    for record in records:
        columns = _job_columns(table, record, settings or {})
        rows += [{**columns, **row, "record": record.id} for row in record.rows]
    frame = pd.DataFrame(rows)
    own = [c for c in dict.fromkeys([*frame.columns, *extra]) if c not in (*COLUMNS, "record")]
    frame = frame.reindex(columns=[*COLUMNS, *own, "record"]).replace("", None)
    if "anchor" in frame:
        frame["anchor"] = frame["anchor"].fillna(0).astype(int)
    # rows are selected thousands of times, which takes three times as long with pandas' own strings
    frame = frame.astype({c: object for c in frame if pd.api.types.is_string_dtype(frame[c])})
    order = [c for c in [*KEYS, *own, "seed"] if c in frame]
    return frame.sort_values(order, kind="stable", na_position="first").reset_index(drop=True)


def share_setting(records: Sequence[Record]) -> dict[str, str]:
    """Return the setting ``p`` for :func:`tidy`, the share of positive signs, if it varies from uniform ½."""
    path = "measurement.positive_share"
    return {"p": path} if any(_swept(r, path) not in (None, UNIFORM_SHARE) for r in records) else {}


def shares_of(frame: pd.DataFrame) -> pd.Series:
    """Return every row's share p of positive signs: its column ``p``, ½ where there is none."""
    p = frame["p"] if "p" in frame else pd.Series(UNIFORM_SHARE, index=frame.index)
    return p.astype(float).fillna(UNIFORM_SHARE)


def aggregate(frame: pd.DataFrame, extra: Sequence[str] = ()) -> pd.DataFrame:
    """Return the mean over training seeds of every measurement, with its 95 % interval and n.

    Args:
        frame: Rows per seed.
        extra: The table's own columns that tell measurements apart. ``seed`` and its other columns are left
            empty.

    Raises:
        ValueError: The columns do not tell the measurements of a seed apart.
    """
    by = [*KEYS, *extra]
    rows = []
    groups = frame.groupby(by, dropna=False, sort=False).ngroup()
    named = frame[by].where(frame[by].notna(), np.nan).to_dict("records")
    pairs, values = _pairs(frame), frame["value"].tolist()
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    for of_group in members.values():
        by_pair = _each_once([pairs[row] for row in of_group], [values[row] for row in of_group])
        key = named[of_group[0]]
        mean, low, high, n = pairs_interval_of(str(key["metric"]), by_pair)
        rows.append({**key, "value": mean, "ci_low": low, "ci_high": high, "n": n})
    return pd.DataFrame(rows).reindex(columns=frame.columns)


def values_of(frame: pd.DataFrame) -> dict[Pair, float]:
    """Return the value of every seed, by the anchor that it is compared with (0 unless named) and the seed.

    Raises:
        ValueError: A seed has several.
    """
    return _each_once(_pairs(frame), frame["value"].tolist())


def _pairs(frame: pd.DataFrame) -> list[Pair]:
    anchors = frame["anchor"].fillna(0).astype(int).tolist() if "anchor" in frame else [0] * len(frame)
    return list(zip(anchors, frame["seed"].astype(int).tolist(), strict=True))


def _each_once(pairs: Sequence[Pair], values: Sequence[float]) -> dict[Pair, float]:
    by_pair = dict(zip(pairs, values, strict=True))
    if len(by_pair) < len(pairs):
        raise ValueError(f"{len(pairs)} rows of the pairs of seeds {sorted(by_pair)}; expected one of each")
    return by_pair


def means_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the means over seeds among a table's rows."""
    return table[table["seed"].isna() & table["verdict"].isna()]


def select(frame: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows in which every named column has the given value."""
    kept = np.ones(len(frame), dtype=bool)
    for column, value in where.items():
        kept &= (frame[column] == value).to_numpy(dtype=bool)
    return frame[kept]


def main_model(frame: pd.DataFrame) -> str:
    """Return the model for a figure with room for one: one of :data:`MAIN_MODELS`, else the first."""
    there = set(frame["model"])
    return next((model for model in MAIN_MODELS if model in there), frame["model"].iloc[0])


def models_of(frame: pd.DataFrame) -> list[str]:
    """Return the models of a frame, those of :data:`MAIN_MODELS` first."""
    return sorted(set(frame["model"]), key=lambda model: (model not in MAIN_MODELS, model))


def middle_site(sites: Sequence[str]) -> str:
    """Return the pre-declared site, block L/2, among the sites of a model."""
    depth = 1 + max(int(s.removeprefix("block")) for s in sites if str(s).startswith("block"))
    return f"block{depth // 2}"


def by_depth(sites: pd.Series) -> pd.Series:
    """Return the sort key of a site column: embed, then blocks by number; or layers, each by place."""
    return sites.map(_depth)


def _depth(site: str) -> float:
    if site == "embed":
        return -1
    if site.startswith("block"):
        return int(site.removeprefix("block"))
    place, _, layer = site.rpartition("_")
    return int(layer) + _PLACES.index(place) / len(_PLACES)


_PLACES = ("resid_pre", "resid_mid", "resid_post")


def _job_columns(table: str, record: Record, settings: Mapping[str, str]) -> dict[str, Any]:
    config = record.config
    setting = config["setting"]
    if setting in settings:
        value = _at(config, settings[setting])
        setting = f"{setting}={value:g}" if isinstance(value, float | int) else f"{setting}={value}"
    columns = {
        "table": table,
        "profile": config["profile"],
        "model": config["model"]["name"],
        "seed": config["seed"],
    }
    columns |= {"setting": setting, **{c: config[k] for c, k in _COMBINATION.items()}}
    if anchor := config.get("task", {}).get("anchor"):
        columns["anchor"] = anchor
    return {**columns, **{name: _swept(record, path) for name, path in settings.items()}}


_COMBINATION = {"group": "gauge", "matcher": "matcher", "route": "route"}


def _swept(record: Record, path: str) -> Any:
    """Return the value at a config path: local files of a path to them, lists as text to group by."""
    if path in record.files:
        return record.files[path]
    try:
        value = _at(record.config, path)
    except (KeyError, TypeError):  # an option of other tasks, or one that counts in no result
        return None
    return str(value) if isinstance(value, list | dict) else value


def _at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config[key] if key in config else UNCOUNTED_DEFAULTS[key]
    return config


ONE_BASE = "Seeds are pairs of runs from one base: intervals are conditional on it."
"""What an interval over seeds is where the base model was fetched."""


def weights(records: Iterable[Record]) -> str:
    """Say where the weights of fetched models came from, and whether runs from them are the seeds.

    It stands at the foot of a table, and is empty without any such model.
    """
    fetched = [r for r in records if "model.source" in r.files]
    if not fetched:
        return ""
    sources = {f"{r.config['model']['name']} is {r.files['model.source']}" for r in fetched}
    return f"Weights: {'; '.join(sorted(sources))}.{f' {ONE_BASE}' if shares_a_base(fetched) else ''}"


def shares_a_base(records: Iterable[Record]) -> bool:
    """Return whether the seeds of some records are runs from one fetched base model."""
    return any(
        "model.source" in r.files
        and r.config["task"].get("target") != "self"
        and r.config["task"].get("pair") != "noise"
        for r in records
    )
