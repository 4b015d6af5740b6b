"""Record the residual stream of a model at named sites.

The sites are ``embed`` (the input of the first block) and ``block0`` to ``block{L-1}`` (the output of each
block). They are read with hooks, because the last of transformers' ``hidden_states`` comes *after* the
final norm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gaugeport.charts import Chart
from gaugeport.charts.tokens import check_tokens


def all_sites(n_blocks: int) -> list[str]:
    """Return every site of a model with ``n_blocks`` blocks, in order of depth."""
    return ["embed", *(f"block{i}" for i in range(n_blocks))]


def check_sites(sites: str | Sequence[str], n_blocks: int, chart: Chart | None = None) -> list[str]:
    """Return sites under the names of :func:`all_sites`, each once, in the order given.

    Other libraries' names are read too: the name of a block's module (``model.layers.9`` in a Llama), and the
    hook names of TransformerLens, which SAEs are labelled with. ``blocks.9.hook_resid_post`` is ``block9``,
    ``blocks.9.hook_resid_pre`` is ``block8``, and ``blocks.0.hook_resid_pre`` is ``embed``. ``hook_embed`` is
    ``embed`` where nothing is added to the token embedding before the first block, as positions are in GPT-2.

    Args:
        sites: ``"all"``, one name or several.
        n_blocks: The number of blocks.
        chart: The model's chart; without it, names of modules are unknown.

    Raises:
        ValueError: For a name that is none of these, and for an empty list.
    """
    allowed = all_sites(n_blocks)
    if isinstance(sites, str) and sites == "all":
        return allowed
    names = [sites] if isinstance(sites, str) or not isinstance(sites, Iterable) else list(sites)
    found = [_site(name, chart) for name in names]
    unknown = [name for name, site in zip(names, found, strict=True) if site not in allowed]
    if unknown or not names:
        module = "" if chart is None else f"{chart.family.blocks}.K, "
        raise ValueError(
            f"unknown site {unknown or names}; allowed: all, {', '.join(allowed)}; for block K also {module}"
            "blocks.K.hook_resid_post, and for what enters it blocks.K.hook_resid_pre"
            + ("" if _adds_positions(chart) else " or hook_embed")
        )
    return list(dict.fromkeys(site for site in found if site is not None))


def check_site(site: str, n_blocks: int, chart: Chart | None = None) -> str:
    """Return one site's name as :func:`check_sites` does. Raises ``ValueError`` for ``"all"`` too."""
    if site == "all":
        raise ValueError(f"expected one site, got 'all'; allowed: {', '.join(all_sites(n_blocks))}")
    return check_sites([site], n_blocks, chart)[0]


def _site(name: object, chart: Chart | None) -> str | None:
    """Return our name of what may be a site, or None. Whether there is such a block is not checked."""
    if not isinstance(name, str):
        return None
    if name == "hook_embed":
        return None if _adds_positions(chart) else "embed"
    if hook := re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", name):
        block = int(hook[1]) - (hook[2] == "pre")
        return "embed" if block < 0 else f"block{block}"
    module, _, number = name.rpartition(".")
    if chart is not None and module == chart.family.blocks:
        return f"block{number}"
    return name


def _adds_positions(chart: Chart | None) -> bool:
    return chart is not None and bool(chart.names("position"))


def middle_site(model: nn.Module, chart: Chart) -> str:
    """Return the site that experiments use unless told otherwise: block L/2, chosen before any result."""
    return f"block{len(chart.blocks(model)) // 2}"


@contextmanager
def record_streams(model: nn.Module, chart: Chart, sites: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While open, store the streams of every forward pass in the yielded dict, site -> [batch, time, d].

    The keys are the sites' names as they are given. Raises ``ValueError`` for an unknown one.
    """
    streams: dict[str, Tensor] = {}
    blocks = chart.blocks(model)
    place_of = {site: check_site(site, len(blocks), chart) for site in sites}
    handles = []

    def keep(site: str, value: Any) -> None:
        streams[site] = value if isinstance(value, Tensor) else value[0]

    def entering(site: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            keep(site, args[0] if args else kwargs["hidden_states"])

        return hook

    def leaving(site: str) -> Any:
        return lambda module, args, output: keep(site, output)

    for site, place in place_of.items():
        if place == "embed":
            handles.append(blocks[0].register_forward_pre_hook(entering(site), with_kwargs=True))
        else:
            handles.append(blocks[int(place.removeprefix("block"))].register_forward_hook(leaving(site)))
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
        sites: Names of sites, as :func:`check_sites` reads them.
        skip_first: How many tokens of each text to leave out. The first token carries massive activations.
        mean_free: For LayerNorm models, subtract each row's mean. No reader sees the component along the
            all-ones direction.

    Returns:
        Site, as it was named -> float32[tokens, d], without padding, all on the device of the model's first
        parameters that are not offloaded (the CPU if all are).

    Raises:
        TypeError: If the batch is not a mapping with 2-dimensional tensors.
        ValueError: If a site is unknown, a token id is not in the vocabulary, or a row is longer than the
            model's positions.
    """
    _check_batch(model, chart, batch)
    # accelerate's hooks move the inputs of a model that lies on several devices, and the streams with them
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
    rows = {site: streams[site].to(device)[keep].to(torch.float32) for site in sites}
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
