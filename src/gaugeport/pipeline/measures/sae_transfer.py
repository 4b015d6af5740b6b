"""What an SAE of A still does on B after its transport: reconstruction, sparsity, and the loss with it spliced in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gaugeport.charts import Chart
from gaugeport.groups import Element
from gaugeport.pipeline.data import row_batches
from gaugeport.pipeline.measures.conditions import mean_over_plants
from gaugeport.pipeline.measures.losses import heldout_loss
from gaugeport.streams.activations import streams_at
from gaugeport.streams.interventions import Edit, edited
from gaugeport.transport.sae import transport_sae

if TYPE_CHECKING:
    from sae_lens import SAE

Row = dict[str, Any]

SAE_CHUNK_TOKENS = 4096
"""Tokens an SAE sees at once: latents are wide."""


def nmse(x: Tensor, guess: Tensor) -> float:
    """``Σ‖x − guess‖² / Σ‖x − mean(x)‖²`` over tokens [..., d], in float64. Raises ``ValueError`` for a constant ``x``.

    Source: PAPER_CLAIMS, definitions.
    """
    x, guess = x.flatten(0, -2).double(), guess.flatten(0, -2).double()
    spread = float(((x - x.mean(0)) ** 2).sum())
    if not spread > 0:
        raise ValueError(f"{len(x)} tokens that are all alike have no variance to explain")
    return float(((x - guess) ** 2).sum()) / spread


def record_stream(model: nn.Module, chart: Chart, rows: Tensor, site: str, batch_size: int) -> Tensor:
    """The stream at ``site`` on rows of token ids [n, length], first tokens kept: float32 [n, length, d] on the CPU."""
    parts = [
        streams_at(model, chart, b, [site], skip_first=0)[site].cpu() for b in row_batches(rows, batch_size)
    ]
    return torch.cat(parts).view(*rows.shape, -1)


@torch.no_grad()
def reconstruct(sae: SAE[Any], x: Tensor, skip_first: int = 1) -> tuple[Tensor, float, float]:
    """The SAE's reconstruction of ``x`` [n, length, d]; its L0 and its share of dead latents beyond the first tokens.

    L0 is the mean number of active latents a token, dead are latents that no token activates.
    """
    length = x.shape[1]
    flat, parts, fired = x.flatten(0, 1), [], torch.zeros(sae.cfg.d_sae, dtype=torch.float64)
    counted = (torch.arange(length) >= skip_first).repeat(len(x))
    for chunk, keep in zip(flat.split(SAE_CHUNK_TOKENS), counted.split(SAE_CHUNK_TOKENS), strict=True):
        latents = sae.encode(chunk.to(sae.device))
        parts.append(sae.decode(latents).to(x.device))
        fired += (latents != 0).cpu()[keep].sum(0)
    return (
        torch.cat(parts).view_as(x),
        float(fired.sum() / counted.sum()),
        float((fired == 0).double().mean()),
    )


def sae_transfer_rows(
    sae: SAE[Any], residuals: Iterable[Element], x_a: Tensor, x_b: Tensor, skip_first: int = 1
) -> Iterator[Row]:
    """Metrics of the SAE of A moved to B, averaged over plants (and ``<metric>_plants_sd`` where there are several).

    ``x_a``, ``x_b`` [n, length, d] are the streams of the same held-out tokens in the coordinates the runs share (one
    object where B is functionally A); ``residuals`` are an arm's gauges beyond the true one, one per plant.

    ``nmse`` leaves out the first ``skip_first`` tokens, ``nmse_first_token`` keeps them. ``nmse_native`` is that of the
    SAE on A; ``nmse_excess`` the transported one's beyond it; ``nmse_to_oracle`` the transported reconstruction of B
    against the one of the SAE carried over by the true gauge, over the variance of the latter: 0 for a perfect gauge.

    ``nmse_silent`` is a reference, not a bound: what uniformly random signs give in expectation when only ``b_dec`` is
    written. With x' = S·x and independent fair signs, E_S ‖x − S·b‖² = ‖x‖² + ‖b‖², so it is
    (E‖x‖² + ‖b‖²) / E‖x − mean‖², or 1 + 2‖mean‖²/variance where b_dec sits at the mean. Latents that fire on scrambled
    streams may lower it (many latents fit some of any vector) or raise it (an encoder far out of its range).
    """
    kept_a, kept_b = x_a[:, skip_first:], x_b[:, skip_first:]
    oracle = reconstruct(sae, x_b)[0][:, skip_first:]
    native = nmse(kept_a, oracle if x_a is x_b else reconstruct(sae, x_a)[0][:, skip_first:])
    yield {"metric": "nmse_native", "value": native}
    found = []
    for residual in residuals:
        guess, l0, dead = reconstruct(transport_sae(sae, residual), x_b, skip_first)
        moved = nmse(kept_b, guess[:, skip_first:])
        found.append(
            {
                "nmse": moved,
                "nmse_first_token": nmse(x_b, guess),
                "nmse_excess": moved - native,
                "nmse_to_oracle": nmse(oracle, guess[:, skip_first:]),
                "l0": l0,
                "dead_latents": dead,
            }
        )
    yield from ({"metric": m, "value": v} for m, v in mean_over_plants(found))
    flat, bias = kept_b.flatten(0, 1).double(), sae.b_dec.detach().double().cpu()
    power = float((flat**2).sum()) + len(flat) * float((bias**2).sum())
    yield {"metric": "nmse_silent", "value": power / float(((flat - flat.mean(0)) ** 2).sum())}


def cross_entropy_rows(
    model: Any,
    chart: Chart,
    site: str,
    sae: SAE[Any],
    batches: Sequence[dict[str, Tensor]],
    skip_first: int = 1,
) -> Iterator[Row]:
    """Held-out loss of ``model`` going on from the SAE's reconstruction at ``site``, as a share of what ablation costs.

    ``ce_recovered`` = (CE_ablated − CE_spliced) / (CE_ablated − CE_clean), SAEBench's convention: the baseline is *zero*
    ablation, the whole stream at the site set to 0 (the origin is every gauge's, so the baseline does not depend on the
    coordinates). The first ``skip_first`` tokens, which the SAE was not trained on, keep their stream in all three. The
    three losses come along, nats per token.
    """

    def spliced(x: Tensor) -> Tensor:
        if chart.norm == "layer":  # as the SAE saw it: the component along 1 is not observable
            x = x - x.mean(-1, keepdim=True)
        with torch.no_grad():
            return sae(x.to(sae.device)).to(x.device, x.dtype)

    losses = {"ce_clean": heldout_loss(model, batches)}
    for name, edit in (("ce_spliced", spliced), ("ce_ablated", torch.zeros_like)):
        with edited(model, chart, site, _beyond(skip_first, edit)):
            losses[name] = heldout_loss(model, batches)
    cost = losses["ce_ablated"] - losses["ce_clean"]
    if cost > 0:  # where ablation costs nothing there is nothing to recover
        yield {"metric": "ce_recovered", "value": (losses["ce_ablated"] - losses["ce_spliced"]) / cost}
    yield from ({"metric": m, "value": v} for m, v in losses.items())


def _beyond(skip_first: int, edit: Edit) -> Edit:
    return lambda x: torch.cat([x[:, :skip_first], edit(x[:, skip_first:])], 1)
