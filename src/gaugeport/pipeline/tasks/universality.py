"""Table b5: what an SAE of the anchor explains of another model, and how alike their decoders look.

Paper B, sections 7.1 and 8.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.features.universality import (
    RAW,
    decoder_rows,
    explained_variance,
    fit_maps,
    principal_axes,
    token_rows,
    transfer_rows,
)
from gaugeport.pipeline.rotation.lenses.decoder_matching import match_decoders
from gaugeport.pipeline.stages import pair_saes
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.streams import (
    check_pair_with_saes,
    paired_streams,
    stages_with_anchor_saes,
)
from gaugeport.pipeline.tasks.task import Row, Task


def stages(job: Job) -> tuple[str, ...]:
    """Return both models and the SAEs of both."""
    return (*stages_with_anchor_saes(job), "other_saes")


def measure(job: Job, built: Built) -> list[Row]:
    """Return explained variance by group and by number of fitting tokens, and how alike the decoders look."""
    task, rows = job.task, []
    saes = pair_saes.load_saes(built["anchor_saes"])
    others = {
        init: pair_saes.load_saes(built["other_saes"], init) for init in (pair_saes.SAME, pair_saes.OWN)
    }
    for site, (fit_a, fit_b), (test_a, test_b) in paired_streams(job, built):
        sae, maps = saes[site], fit_maps(fit_a, fit_b)
        # 1) what the anchor's SAE explains of the other's stream, raw and through every group's map
        axes = principal_axes(fit_a, fit_b, job.seed)
        measured = list(transfer_rows(sae, maps, axes, test_a, test_b, job.seed))
        native = explained_variance(others[pair_saes.OWN][site], test_b)
        measured.append({"metric": "explained_variance", "group": "native", "value": native})
        measured += token_rows(sae, fit_a, fit_b, test_b, task["tokens"])
        # 2) how alike the decoders look, beside untrained ones
        for init, theirs in others.items():
            measured += decoder_rows(sae.W_dec, theirs[site].W_dec, maps, task["threshold"], init)
        measured += _initial_rows(job, site, sae, others[pair_saes.OWN][site])
        rows += [{"cohort": task["cohort"], "site": site, **row} for row in measured]
    return rows


def _initial_rows(job: Job, site: str, sae: Any, other: Any) -> Iterator[Row]:
    """Yield how near SAEs stay to their initialisation, and how alike two untrained ones look."""
    inits = (pair_saes.SAME, pair_saes.OWN)
    untrained = [pair_saes.initial_sae(job, site, init, sae.cfg.d_in).W_dec for init in inits]
    for init, trained, initial in zip(inits, (sae, other), untrained, strict=True):
        cosine = (unit(trained.W_dec) * unit(initial)).sum(1)
        yield {"metric": "cosine_to_initial", "init": init, "value": float(cosine.mean())}
    for metric, value in match_decoders(*untrained).values(job.task["threshold"]).items():
        yield {"metric": f"decoder_{metric}", "group": RAW, "init": "untrained", "value": value}


def unit(rows: Tensor) -> Tensor:
    """Return rows [n, d] scaled to length 1, on the CPU in float64."""
    x = rows.detach().cpu().double()
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


TASK = Task(measure, stages, check_pair_with_saes)
