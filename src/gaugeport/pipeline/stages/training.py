"""The stages every experiment stands on, each built once in the store: data rows, base model, runs A and B."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from gaugeport.models.loading import load_model, load_tokenizer
from gaugeport.pipeline.data import (
    Corpus,
    hub_corpus,
    mini_corpus,
    mini_tokenizer,
    mixed_rows,
    ordered_rows,
    pack,
    seen_tokens,
    text_corpus,
    word_tokenizer,
)
from gaugeport.pipeline.job import Data, Job, counted
from gaugeport.pipeline.store.store import Store, digest_files
from gaugeport.pipeline.training.trainer import checkpoints, train
from gaugeport.utils.seeds import derive, generator

RUNS = ("A", "B")


def contents(job: Job) -> dict[str, str]:
    """Digests of the local files a job reads, by config key: contents count in a key, their paths do not."""
    return {name: digest_files(path) for name, path in job.files().items()}


def data_stage(job: Job, store: Store) -> Path:
    """Tokenized rows: ``rows.safetensors`` with ``train_0``, ``train_1``, ``heldout`` [n, length], and ``tokenizer/``."""

    def build(folder: Path) -> None:
        tokenizer = _tokenizer(job)
        texts = _corpus(job.data)
        rows = {f"train_{d}": pack(texts.texts("train", d), tokenizer, job.data.length) for d in (0, 1)}
        rows["heldout"] = pack(texts.texts("heldout"), tokenizer, job.data.length)
        save_file(rows, folder / "rows.safetensors")
        tokenizer.save_pretrained(folder / "tokenizer")

    return store.ensure("data", data_key(job), build)


def base_stage(job: Job, store: Store) -> Path:
    """The folder of the base model: the user's own, a hub snapshot saved locally, or one trained here from scratch."""
    if job.model.path is not None:
        return Path(job.model.path)

    def from_hub(folder: Path) -> None:
        source = hub_id(job, job.seed)
        load_model(source, revision=job.model.revision).save_pretrained(folder)
        load_tokenizer(source, revision=job.model.revision).save_pretrained(folder)

    build = from_hub if job.model.from_hub else lambda folder: _pretrain(job, store, folder, keep=1)
    return store.ensure("base", base_key(job), build, resumable=True)


def pretraining_stage(job: Job, store: Store) -> Path:
    """The base model with every checkpoint of its training from scratch: ``training/checkpoint-<step>/`` beside it.

    The model is bit for bit that of :func:`base_stage`. Raises ``ValueError`` for a model that is not trained here.
    """
    if _pretrained(job):
        raise ValueError(
            f"model={job.model.name} is not trained here: its run has no checkpoints of its own to keep"
        )
    return store.ensure(
        "pretraining", base_key(job), lambda folder: _pretrain(job, store, folder, keep=None), resumable=True
    )


def initialised(job: Job, store: Store) -> PreTrainedModel:
    """The model that :func:`pretraining_stage` starts from, step 0 of the run."""
    return _initialise(job, load_tokenizer(data_stage(job, store) / "tokenizer"))


def run_stage(job: Job, store: Store, run: str) -> Path:
    """A fine-tuning run from the base: ``checkpoint-<step>/`` folders as Trainer writes them, and ``seen.safetensors``."""

    def build(folder: Path) -> None:
        order, schedule = run_rows(job, store, run), job.training.run
        model = load_model(base_stage(job, store), dtype=torch.float32)
        tokenizer = load_tokenizer(data_stage(job, store) / "tokenizer")
        train(model, order, folder, schedule, derive(job.seed, "run", run), keep=None, tokenizer=tokenizer)
        save_file({"seen": seen_tokens(order)}, folder / "seen.safetensors")

    if run not in RUNS:
        raise ValueError(f"unknown run {run!r}; allowed: {', '.join(RUNS)}")
    return store.ensure("run", run_key(job, run), build, resumable=True)


def run_rows(job: Job, store: Store, run: str) -> Tensor:
    """All rows of a run in their order, int64[steps × batch, length]: A sees domain 0 then 1, B domain 1 then 0."""
    rows, schedule = load_file(data_stage(job, store) / "rows.safetensors"), job.training.run
    domains = [rows["train_0"], rows["train_1"]]
    return ordered_rows(
        domains if run == "A" else domains[::-1],
        schedule.steps * schedule.batch_size,
        generator(job.seed, "run", run, "data"),
    )


def heldout_rows(job: Job, store: Store) -> tuple[Tensor, Tensor]:
    """Held-out rows, split in two: those to calibrate gauges on, those to measure losses and effects on.

    They are alternate rows of one packed text, so that neighbours often share a document. A map that is fitted on the ones
    and scored on the others wants the first of the ones and the last of the others.
    """
    rows = load_file(data_stage(job, store) / "rows.safetensors")["heldout"]
    return rows[::2], rows[1::2]


def run_checkpoints(job: Job, store: Store, run: str) -> dict[int, Path]:
    """Step -> checkpoint folder of a finished run."""
    return checkpoints(run_stage(job, store, run))


def hub_id(job: Job, seed: int) -> str:
    """The repository of a training seed: ``{seed}`` in ``model.hub_id`` counts from 1. All seeds share seed 0's tokenizer."""
    return job.model.hub_id.format(seed=seed + 1)


def data_key(job: Job) -> dict[str, Any]:
    """What decides the rows: the texts and the tokenizer."""
    data = counted(asdict(job.data), "path")
    files = {
        k: v for k, v in contents(job).items() if not k.startswith("task.")
    }  # those decide measurements alone
    return {
        "data": data,
        "tokenizer": _model_identity(job, 0) if _pretrained(job) else "mini",
        "files": files,
    }


def base_key(job: Job) -> dict[str, Any]:
    """What decides the base model."""
    if _pretrained(job):
        return {"model": _model_identity(job, job.seed)}
    return {
        "architecture": job.model.architecture,
        "data": data_key(job),
        "schedule": asdict(job.training.base),
        "seed": job.seed,
    }


def run_key(job: Job, run: str) -> dict[str, Any]:
    """What decides a fine-tuning run."""
    return {
        "base": base_key(job),
        "data": data_key(job),
        "schedule": asdict(job.training.run),
        "seed": job.seed,
        "run": run,
    }


def _pretrained(job: Job) -> bool:
    return job.model.path is not None or job.model.from_hub


def _model_identity(job: Job, seed: int) -> dict[str, Any]:
    if job.model.path is not None:
        return {"files": contents(job)["model.path"]}
    return {"hub_id": hub_id(job, seed), "revision": job.model.revision}


def _tokenizer(job: Job) -> PreTrainedTokenizerBase:
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
            raise ValueError("data=text wants data.path=FILE (.jsonl, .csv, .txt or .parquet)")
        return text_corpus(data.path, data.field, data.heldout, max_documents=data.documents)
    if data.name == "hub" and data.hub_id is not None:
        return hub_corpus(
            data.hub_id, data.split, data.field, max_documents=data.documents, heldout=data.heldout
        )
    raise ValueError(
        f"data.name={data.name!r}, data.hub_id={data.hub_id!r}; allowed: mini, text (data.path), hub (data.hub_id)"
    )


def _pretrain(job: Job, store: Store, folder: Path, keep: int | None) -> None:
    data = data_stage(job, store)
    tokenizer, rows = load_tokenizer(data / "tokenizer"), load_file(data / "rows.safetensors")
    schedule = job.training.base
    order = mixed_rows(
        torch.cat([rows["train_0"], rows["train_1"]]),
        schedule.steps * schedule.batch_size,
        generator(job.seed, "base", "data"),
    )
    model = _initialise(job, tokenizer)
    train(
        model, order, folder / "training", schedule, derive(job.seed, "base"), keep=keep, tokenizer=tokenizer
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _initialise(job: Job, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    ids = {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")}
    architecture = {**job.model.architecture, "vocab_size": len(tokenizer), **ids}
    config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    with torch.random.fork_rng():
        torch.manual_seed(derive(job.seed, "init"))
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
