"""The data stage: tokenized rows of a job's texts, and the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gaugeport.models.gguf_files import is_gguf
from gaugeport.models.loading import load_tokenizer
from gaugeport.pipeline.data import (
    Corpus,
    docs_corpus,
    docs_digest,
    hub_corpus,
    mini_corpus,
    mini_tokenizer,
    text_corpus,
    word_tokenizer,
)
from gaugeport.pipeline.job import Data, Job, contents, counted
from gaugeport.pipeline.stages.stage import Folders
from gaugeport.pipeline.store.store import file_sha256
from gaugeport.texts import pack, row_batches, rows_holding

LOSS_TOKENS = 16_384
"""The most held-out tokens that losses are measured on, whatever the number of calibration tokens."""


def data_key(job: Job) -> dict[str, Any]:
    """Return what decides the rows: the texts and the tokenizer."""
    data = counted(asdict(job.data), "path")
    # files named by the task decide measurements alone
    files = {k: v for k, v in contents(job).items() if not k.startswith("task.")}
    tokenizer = pretrained_identity(job, 0) if is_pretrained(job) else "mini"
    return {"data": data, "tokenizer": tokenizer, "files": {**files, **installed_texts(job)}}


def installed_texts(job: Job) -> dict[str, str]:
    """Return the digest of the texts of ``data=docs``, which depend on the versions that are installed.

    It is part of the key of every stage that reads them and of a job's record, and not of a job's id. Other
    data give nothing.
    """
    return {"data.docs": docs_digest(_corpus(job.data))} if job.data.name == "docs" else {}


def build_data(job: Job, required: Folders, folder: Path) -> None:
    """Write ``tokenizer/`` and ``rows.safetensors`` (train_0, train_1, heldout: int64[n, length])."""
    tokenizer, texts = _tokenizer(job, required), _corpus(job.data)
    rows = {f"train_{d}": pack(texts.texts("train", d), tokenizer, job.data.length) for d in (0, 1)}
    rows["heldout"] = pack(texts.texts("heldout"), tokenizer, job.data.length)
    save_file(rows, folder / "rows.safetensors")
    tokenizer.save_pretrained(folder / "tokenizer")


def read_tokenizer(data: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a data stage."""
    return load_tokenizer(data / "tokenizer")


def train_rows(data: Path) -> tuple[Tensor, Tensor]:
    """Return the training rows of both fine-tuning domains of a data stage, int64[n, length] each."""
    rows = load_file(data / "rows.safetensors")
    return rows["train_0"], rows["train_1"]


def all_train_rows(data: Path) -> Tensor:
    """Return the training rows of both domains, one after the other."""
    return torch.cat(train_rows(data))


def heldout_rows(data: Path) -> tuple[Tensor, Tensor]:
    """Split the held-out rows of a data stage: those to calibrate gauges on, those to measure losses and
    effects on.

    They are alternate rows of one packed text, so neighbours often share a document. A map that is fitted on
    the first half and scored on the second should take the first rows of one and the last rows of the other.
    """
    rows = load_file(data / "rows.safetensors")["heldout"]
    return rows[::2], rows[1::2]


def loss_rows(rows: Tensor) -> Tensor:
    """Return the first held-out ``rows`` [n, length] that hold :data:`LOSS_TOKENS` tokens, or all of them."""
    return rows[: -(-LOSS_TOKENS // rows.shape[1])]


def calibration_batches(job: Job, rows: Tensor) -> Iterator[dict[str, Tensor]]:
    """Yield batches of the first held-out ``rows`` that hold ``measurement.tokens`` tokens.

    Raises:
        ValueError: There are too few rows.
    """
    measurement = job.measurement
    held = rows_holding(rows, measurement.tokens, measurement.skip_first, "measurement.tokens")
    return row_batches(held, measurement.batch_size)


def is_pretrained(job: Job) -> bool:
    """Return whether the base model comes from one of the sources of its config, not from training here."""
    return job.model.path is not None or job.model.from_hub or job.model.package is not None


def is_converted(job: Job) -> bool:
    """Return whether the base stage dequantises a GGUF file, a local one or one in a package."""
    if job.model.path is not None:
        return is_gguf(job.model.path)
    return job.model.package is not None and not job.model.from_hub


def pretrained_identity(job: Job, seed: int) -> dict[str, Any]:
    """Return what identifies a pretrained model: its contents, or its hub id and revision.

    A GGUF file has one identity, whether it is a local file or in a package.
    """
    model = job.model
    if model.path is not None and is_gguf(model.path):
        return {"gguf": file_sha256(Path(model.path))}
    if model.path is not None:
        return {"files": contents(job)["model.path"]}
    if model.from_hub or model.package is None:
        return {"hub_id": hub_id(job, seed), "revision": model.revision}
    return {"gguf": model.package.sha256}


def hub_id(job: Job, seed: int) -> str:
    """Return the repository of a training seed: ``{seed}`` in ``model.hub_id`` counts from 1.

    All seeds share seed 0's tokenizer.
    """
    return job.model.hub_id.format(seed=seed + 1)


def _tokenizer(job: Job, required: Folders) -> PreTrainedTokenizerBase:
    if is_converted(job):
        return load_tokenizer(required["base"])
    if job.model.path is not None:
        return load_tokenizer(job.model.path)
    if job.model.from_hub:
        return load_tokenizer(hub_id(job, 0), revision=job.model.revision)
    if job.data.name == "mini":
        return mini_tokenizer()
    return word_tokenizer(_corpus(job.data).texts("train"))


def _corpus(data: Data) -> Corpus:
    if data.name == "mini":
        return mini_corpus(data.documents, data.seed, data.heldout, data.richness)
    if data.name == "text":
        if data.path is None:
            raise ValueError("data=text requires data.path=FILE (.jsonl, .csv, .txt or .parquet)")
        return text_corpus(data.path, data.field, data.heldout, max_documents=data.documents)
    if data.name == "docs":
        return docs_corpus(data.documents, data.heldout)
    if data.name == "hub" and data.hub_id is not None:
        return hub_corpus(
            data.hub_id, data.split, data.field, max_documents=data.documents, heldout=data.heldout
        )
    raise ValueError(
        f"data.name={data.name!r}, data.hub_id={data.hub_id!r}; "
        "allowed: mini, docs, text (with data.path), hub (with data.hub_id)"
    )
