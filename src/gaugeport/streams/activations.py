"""Residual-stream activations of a model at named sites, as the hooked outputs of its blocks.

Sites are ``embed`` (what enters the first block) and ``block0 … block{L-1}`` (what each block hands on). They are
hooked because transformers' ``hidden_states[-1]`` is *after* the final norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts import Chart


def all_sites(n_blocks: int) -> list[str]:
    """Every site of a model of ``n_blocks`` blocks, in order of depth."""
    return ["embed", *(f"block{i}" for i in range(n_blocks))]


def check_sites(sites: str | Sequence[str], n_blocks: int) -> list[str]:
    """``"all"`` or a list of site names, validated. Raises ``ValueError`` naming the unknown one and the allowed."""
    allowed = all_sites(n_blocks)
    if sites == "all":
        return allowed
    wanted = [sites] if isinstance(sites, str) else list(sites)
    unknown = [s for s in wanted if s not in allowed]
    if unknown or not wanted:
        raise ValueError(f"unknown site {unknown or wanted}; allowed: all, {', '.join(allowed)}")
    return wanted


def middle_site(model: nn.Module, chart: Chart) -> str:
    """The pre-declared site, block L/2 (PAPER_CLAIMS)."""
    return f"block{len(chart.blocks(model)) // 2}"


@contextmanager
def record_streams(model: nn.Module, chart: Chart, sites: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While open, every forward pass of ``model`` leaves its streams in the yielded dict, site -> [batch, time, d]."""
    streams: dict[str, Tensor] = {}
    blocks = chart.blocks(model)
    handles = []

    def keep(site: str, value: Any) -> None:
        streams[site] = value if isinstance(value, Tensor) else value[0]

    def entering(site: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            keep(site, args[0] if args else kwargs["hidden_states"])

        return hook

    def leaving(site: str) -> Any:
        return lambda module, args, output: keep(site, output)

    for site in sites:
        if site == "embed":
            handles.append(blocks[0].register_forward_pre_hook(entering(site), with_kwargs=True))
        else:
            handles.append(blocks[int(site.removeprefix("block"))].register_forward_hook(leaving(site)))
    try:
        yield streams
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def streams_at(
    model: nn.Module,
    chart: Chart,
    batch: dict[str, Tensor],
    sites: Sequence[str],
    skip_first: int = 1,
    mean_free: bool = True,
) -> dict[str, Tensor]:
    """One forward pass: site -> rows [tokens, d], padding and the first ``skip_first`` tokens of each row left out.

    Runs in evaluation mode and puts the mode back. The first token carries massive activations (DESIGN §1); pass
    ``skip_first=0`` to keep it. On LayerNorm charts nothing reads the component along the all-ones direction, and it is
    projected out of every row (unless not ``mean_free``). Raises ``TypeError`` for a batch that is no mapping with
    ``input_ids``, a tensor [b, t], and ``ValueError`` for ids that the model has no embedding of.
    """
    _check_batch(model, chart, batch)
    # an offloaded model's own hooks take its inputs to where it runs
    device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
    inputs = {k: batch[k].to(device) for k in ("input_ids", "attention_mask") if k in batch}
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    keep = (mask > 0) & (mask.cumsum(1) > skip_first)
    training = [m for m in model.modules() if m.training]
    model.eval()  # dropout is no evidence
    try:
        with record_streams(model, chart, sites) as streams:
            with torch.autocast(device.type, enabled=False):  # in the model's own precision
                model.base_model(**inputs, use_cache=False)  # type: ignore[operator]  # the logits are not needed
    finally:
        for module in training:
            module.training = True
    rows = {site: streams[site][keep].to(torch.float32) for site in sites}
    if chart.norm == "layer" and mean_free:
        rows = {site: x - x.mean(-1, keepdim=True) for site, x in rows.items()}
    return rows


def _check_batch(model: nn.Module, chart: Chart, batch: Any) -> None:
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        raise TypeError(
            "batches are an iterable of {'input_ids': int64[b, t], 'attention_mask': …}, as a tokenizer returns them with "
            f"return_tensors='pt'; found a {type(batch).__name__}{f' of {sorted(batch)}' if isinstance(batch, Mapping) else ''}"
        )
    for key in ("input_ids", "attention_mask"):
        given = batch.get(key)
        if key in batch and (not isinstance(given, Tensor) or given.dim() != 2):
            shape = f" of shape {tuple(given.shape)}" if isinstance(given, Tensor) else ""
            raise TypeError(
                f"{key} of a batch has to be a tensor [b, t], found a {type(given).__name__}{shape}"
            )
    known, ids = len(chart.embedding(model).weight), batch["input_ids"]  # type: ignore[arg-type]
    if ids.numel() and int(ids.max()) >= known:
        raise ValueError(f"the batches hold token id {int(ids.max())}; this model has 0 to {known - 1}")
