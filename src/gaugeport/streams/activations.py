"""Record the residual stream of a model at named sites.

The sites are ``embed`` (the input of the first block) and ``block0`` to ``block{L-1}`` (the output of each
block). They are read with hooks, because the last of transformers' ``hidden_states`` comes *after* the
final norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts import Chart
from gaugeport.charts.tokens import check_tokens


def all_sites(n_blocks: int) -> list[str]:
    """Return every site of a model with ``n_blocks`` blocks, in order of depth."""
    return ["embed", *(f"block{i}" for i in range(n_blocks))]


def check_sites(sites: str | Sequence[str], n_blocks: int) -> list[str]:
    """Return a list of sites from ``"all"``, one name or several names.

    Raises ``ValueError`` for an unknown name and for an empty list.
    """
    allowed = all_sites(n_blocks)
    if sites == "all":
        return allowed
    names = [sites] if isinstance(sites, str) else list(sites)
    unknown = [s for s in names if s not in allowed]
    if unknown or not names:
        raise ValueError(f"unknown site {unknown or names}; allowed: all, {', '.join(allowed)}")
    return names


def middle_site(model: nn.Module, chart: Chart) -> str:
    """Return the site that experiments use unless told otherwise: block L/2, chosen before any result."""
    return f"block{len(chart.blocks(model)) // 2}"


@contextmanager
def record_streams(model: nn.Module, chart: Chart, sites: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While open, store the streams of every forward pass in the yielded dict, site -> [batch, time, d]."""
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
    """Run a forward pass and return the stream at each site, one row per token.

    The model runs in evaluation mode and in its own precision; its mode is restored.

    Args:
        model: The model.
        chart: Its chart.
        batch: ``input_ids`` int64[b, t] and, optionally, ``attention_mask`` of the same shape.
        sites: Names of sites.
        skip_first: How many tokens of each text to leave out. The first token carries massive activations.
        mean_free: For LayerNorm models, subtract each row's mean. No reader sees the component along the
            all-ones direction.

    Returns:
        site -> float32[tokens, d], without padding.

    Raises:
        TypeError: If the batch is not a mapping with 2-dimensional tensors.
        ValueError: If a token id is not in the vocabulary, or a row is longer than the model's positions.
    """
    _check_batch(model, chart, batch)
    # hooks of an offloaded model move its inputs to the right device
    device = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
    inputs = {k: batch[k].to(device) for k in ("input_ids", "attention_mask") if k in batch}
    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
    keep = (mask > 0) & (mask.cumsum(1) > skip_first)
    training = [m for m in model.modules() if m.training]
    model.eval()  # dropout would be noise
    try:
        with record_streams(model, chart, sites) as streams:
            with torch.autocast(device.type, enabled=False):
                model.base_model(**inputs, use_cache=False)  # type: ignore[operator]  # without the unembedding
    finally:
        for module in training:
            module.training = True
    rows = {site: streams[site][keep].to(torch.float32) for site in sites}
    if chart.norm == "layer" and mean_free:
        rows = {site: x - x.mean(-1, keepdim=True) for site, x in rows.items()}
    return rows


def _check_batch(model: nn.Module, chart: Chart, batch: Any) -> None:
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        keys = f" with keys {sorted(batch)}" if isinstance(batch, Mapping) else ""
        raise TypeError(
            "expected batches as an iterable of {'input_ids': int64[b, t], 'attention_mask': ...}, as a "
            f"tokenizer returns them with return_tensors='pt'; got a {type(batch).__name__}{keys}"
        )
    for key in ("input_ids", "attention_mask"):
        value = batch.get(key)
        if key in batch and (not isinstance(value, Tensor) or value.dim() != 2):
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
            raise TypeError(f"expected {key} as a tensor [b, t], got a {type(value).__name__}{shape}")
    check_tokens(chart, model, batch["input_ids"])
