"""Measure what an SAE of A does on B after transport: reconstruction, sparsity, spliced loss (table a4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gaugeport.charts import Chart
from gaugeport.groups import Element
from gaugeport.pipeline.measures.conditions import mean_over_plants
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.pipeline.measures.plants import UNIFORM
from gaugeport.streams.activations import streams_at
from gaugeport.streams.interventions import Edit, edited
from gaugeport.streams.massive import KEEP, LEAVE_OUT, check_treatment, massive_tokens
from gaugeport.texts import row_batches
from gaugeport.transport.sae import transport_sae

if TYPE_CHECKING:
    from sae_lens import SAE

Row = dict[str, Any]

SAE_CHUNK_TOKENS = 4096
"""Tokens to encode at once; the latents of more would need too much memory."""


def nmse(x: Tensor, guess: Tensor) -> float:
    """Return the normalised mean squared error ``Σ‖x − guess‖² / Σ‖x − mean(x)‖²`` over tokens, in float64.

    Args:
        x: float[..., d], the true vectors.
        guess: float[..., d], the predicted ones.

    Raises:
        ValueError: all tokens of ``x`` are equal, so there is no variance to explain.
    """
    x, guess = x.flatten(0, -2).double(), guess.flatten(0, -2).double()
    spread = float(((x - x.mean(0)) ** 2).sum())
    if not spread > 0:
        raise ValueError(f"all {len(x)} tokens are equal: there is no variance to explain")
    return float(((x - guess) ** 2).sum()) / spread


def record_stream(model: nn.Module, chart: Chart, rows: Tensor, site: str, batch_size: int) -> Tensor:
    """Record the stream at one site, first tokens included.

    Args:
        model: the model to run.
        chart: its chart.
        rows: int64[n, length], token ids.
        site: the site to record.
        batch_size: rows to run at once.

    Returns:
        float32[n, length, d] on the CPU.
    """
    parts = []
    for batch in row_batches(rows, batch_size):
        parts.append(streams_at(model, chart, batch, [site], skip_first=0)[site].cpu())
    return torch.cat(parts).view(*rows.shape, -1)


def counted_tokens(*streams: Tensor, skip_first: int, massive: str) -> Tensor:
    """Return bool[n, length]: the tokens that count in streams [n, length, d] of the same tokens.

    Args:
        *streams: A's stream, B's, or both.
        skip_first: number of tokens at the start of each row that do not count.
        massive: ``leave_out`` further tokens that are massive in any of the streams, or ``keep`` them.
    """
    check_treatment(massive)
    beyond = torch.ones(streams[0].shape[:2], dtype=torch.bool)
    beyond[:, :skip_first] = False
    if massive == LEAVE_OUT:
        return beyond & ~torch.stack([massive_tokens(x, beyond) for x in streams]).any(0)
    return beyond


@torch.no_grad()
def reconstruct(sae: SAE[Any], x: Tensor, counted: Tensor | None = None) -> tuple[Tensor, float, float]:
    """Reconstruct a stream with an SAE.

    Args:
        sae: the SAE.
        x: float[n, length, d], the stream.
        counted: bool[n, length], the tokens that count in L0 and dead latents; by default all.

    Returns:
        The reconstruction [n, length, d]; L0, the mean number of active latents per token; and the share of
        dead latents, those that no token activates.
    """
    among = torch.ones(x.shape[:2], dtype=torch.bool) if counted is None else counted
    flat, parts, fired = x.flatten(0, 1), [], torch.zeros(sae.cfg.d_sae, dtype=torch.float64)
    for chunk, keep in zip(
        flat.split(SAE_CHUNK_TOKENS), among.flatten().split(SAE_CHUNK_TOKENS), strict=True
    ):
        latents = sae.encode(chunk.to(sae.device))
        parts.append(sae.decode(latents).to(x.device))
        fired += (latents != 0).cpu()[keep].sum(0)
    l0 = float(fired.sum() / among.sum())
    dead = float((fired == 0).double().mean())
    return torch.cat(parts).view_as(x), l0, dead


def sae_transfer_rows(
    sae: SAE[Any],
    residuals: Iterable[Element],
    x_a: Tensor,
    x_b: Tensor,
    skip_first: int = 1,
    massive: str = LEAVE_OUT,
    positive_share: float = UNIFORM,
) -> Iterator[Row]:
    """Measure an SAE of A on the stream of B, moved there by the gauges of one condition.

    Metrics, means over plants (with ``<metric>_plants_sd`` where there are several):
        ``nmse``: error of the transported SAE on B, without the first ``skip_first`` tokens of each row and
            without massive ones.
        ``nmse_massive``: the same with massive ones, but without the first tokens; only where there are any.
        ``nmse_first_token``: the same with all tokens.
        ``nmse_excess``: ``nmse`` minus ``nmse_native``.
        ``nmse_to_oracle``: error against the reconstruction of the SAE moved by the true gauge, over the
            variance of the latter; 0 for a perfect gauge.
        ``l0``, ``dead_latents``: as in :func:`reconstruct`.
    Metrics without a gauge:
        ``massive_in_nmse``: the number of tokens beyond the first that were left out as massive in A or B;
            only where there are any.
        ``nmse_native``: error of the SAE on A itself.
        ``nmse_silent``: a reference, not a bound: the expected error under uniformly random signs when only
            ``b_dec`` is written. With x' = S·x and independent fair signs, E_S ‖x − S·b‖² = ‖x‖² + ‖b‖². So
            it is (E‖x‖² + ‖b‖²) / E‖x − mean‖², which is 1 + 2‖mean‖²/variance where ``b_dec`` is the mean.
            Latents that fire on a scrambled stream may lower it (many latents fit part of any vector) or
            raise it (an encoder far out of its range). Signs that are positive with probability p take
            2·(2p − 1)·⟨mean, b⟩ off the numerator.

    Args:
        sae: the SAE of A.
        residuals: the errors of the condition's gauges in shared coordinates, one per plant.
        x_a: float[n, length, d], A's stream on held-out tokens.
        x_b: float[n, length, d], B's stream on the same tokens, in shared coordinates; the object ``x_a``
            where B computes what A computes.
        skip_first: number of tokens at the start of each row to leave out.
        massive: ``leave_out`` tokens that are massive in A or B, or ``keep`` them.
        positive_share: the probability p of a positive sign that ``nmse_silent`` assumes.

    Yields:
        Rows ``{metric, value}``.
    """
    counted = counted_tokens(*((x_a,) if x_a is x_b else (x_a, x_b)), skip_first=skip_first, massive=massive)
    left_out = counted.shape[0] * max(counted.shape[1] - skip_first, 0) - int(counted.sum())
    kept_a, kept_b = x_a[counted], x_b[counted]
    oracle = reconstruct(sae, x_b)[0][counted]
    native = nmse(kept_a, oracle if x_a is x_b else reconstruct(sae, x_a)[0][counted])
    yield {"metric": "nmse_native", "value": native}
    if left_out:
        yield {"metric": "massive_in_nmse", "value": left_out}
    by_plant = []
    for residual in residuals:
        guess, l0, dead = reconstruct(transport_sae(sae, residual), x_b, counted)
        moved = nmse(kept_b, guess[counted])
        with_massive = {"nmse_massive": nmse(x_b[:, skip_first:], guess[:, skip_first:])} if left_out else {}
        by_plant.append(
            {
                "nmse": moved,
                **with_massive,
                "nmse_first_token": nmse(x_b, guess),
                "nmse_excess": moved - native,
                "nmse_to_oracle": nmse(oracle, guess[counted]),
                "l0": l0,
                "dead_latents": dead,
            }
        )
    yield from ({"metric": m, "value": v} for m, v in mean_over_plants(by_plant))
    flat, bias = kept_b.double(), sae.b_dec.detach().double().cpu()
    power = float((flat**2).sum()) + len(flat) * float((bias**2).sum())
    if positive_share != UNIFORM:
        power -= 2 * (2 * positive_share - 1) * float((flat @ bias).sum())
    yield {"metric": "nmse_silent", "value": power / float(((flat - flat.mean(0)) ** 2).sum())}


def cross_entropy_rows(
    model: Any,
    chart: Chart,
    site: str,
    sae: SAE[Any],
    batches: Sequence[dict[str, Tensor]],
    skip_first: int = 1,
    massive: str = LEAVE_OUT,
) -> Iterator[Row]:
    """Measure the held-out loss of a model that continues from an SAE's reconstruction.

    ``ce_recovered`` = (CE_ablated − CE_spliced) / (CE_ablated − CE_clean), as in SAEBench. The ablation sets
    the whole stream at the site to 0; no gauge moves the origin, so it does not depend on the coordinates.
    The metric is left out where the ablation costs nothing.

    Args:
        model: the model to run.
        chart: its chart.
        site: the site of the SAE.
        sae: the SAE, in the model's coordinates.
        batches: held-out batches of full rows.
        skip_first: number of tokens at the start of each row that keep their stream in all three losses; the
            SAE was not trained on them.
        massive: ``leave_out`` massive tokens: they keep their stream too; or ``keep`` them like others.

    Yields:
        Rows ``{metric, value}``: ``ce_recovered``, and ``ce_clean``, ``ce_spliced``, ``ce_ablated`` in nats
        per token.
    """

    def observed(x: Tensor) -> Tensor:
        # the SAE was trained without the component along 1, which is unobservable on LayerNorm charts
        return x - x.mean(-1, keepdim=True) if chart.norm == "layer" else x

    def spliced(x: Tensor) -> Tensor:
        with torch.no_grad():
            return sae(observed(x).to(sae.device)).to(x.device, x.dtype)

    def of_ordinary_tokens(edit: Edit) -> Edit:
        def edited_stream(x: Tensor) -> Tensor:
            y = torch.cat([x[:, :skip_first], edit(x[:, skip_first:])], 1)
            if massive == KEEP:
                return y
            kept = counted_tokens(observed(x).cpu(), skip_first=skip_first, massive=massive).to(x.device)
            return torch.where(kept[..., None], y, x)

        return edited_stream

    losses = {"ce_clean": heldout_loss(model, batches)}
    for name, edit in (("ce_spliced", spliced), ("ce_ablated", torch.zeros_like)):
        with edited(model, chart, site, of_ordinary_tokens(edit)):
            losses[name] = heldout_loss(model, batches)
    cost = losses["ce_ablated"] - losses["ce_clean"]
    if cost > 0:
        yield {"metric": "ce_recovered", "value": (losses["ce_ablated"] - losses["ce_spliced"]) / cost}
    yield from ({"metric": m, "value": v} for m, v in losses.items())
