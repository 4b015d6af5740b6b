"""Jobs on a model of a cohort and its anchor: what an SAE of the anchor explains there (b5), and where it fires (b7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.features.firing import firing_rows
from gaugeport.pipeline.rotation.features.universality import (
    RAW,
    decoder_rows,
    explained_variance,
    fit_maps,
    principal_axes,
    token_rows,
    transfer_rows,
)
from gaugeport.pipeline.rotation.lenses.dictionaries import match_decoders
from gaugeport.pipeline.rotation.models import subjects
from gaugeport.pipeline.stages import subject_saes
from gaugeport.pipeline.store.store import Store

Row = dict[str, Any]


def firing_stages(job: Job) -> tuple[str, ...]:
    """Both models and the anchor's SAEs. Raises ``ValueError`` for the anchor with itself, and SAEs that cannot be."""
    subjects.check_pair(job)
    subject_saes.check_saes(job)
    return (*subjects.model_stages(job), "anchor_saes")


def stages(job: Job) -> tuple[str, ...]:
    """Those, and the other model's SAEs, whose decoders are compared."""
    return (*firing_stages(job), "other_saes")


def measure(job: Job, store: Store) -> list[Row]:
    """Table b5: explained variance by group and number of fitting tokens, and how alike the decoders look."""
    task, rows = job.task, []
    saes = subject_saes.load_saes(job, store, "anchor")
    others = {
        i: subject_saes.load_saes(job, store, "other", i) for i in (subject_saes.SAME, subject_saes.OWN)
    }
    for site, (fit_a, fit_b), (test_a, test_b) in pairs(job, store):
        sae, maps = saes[site], fit_maps(fit_a, fit_b)
        found = list(
            transfer_rows(sae, maps, principal_axes(fit_a, fit_b, job.seed), test_a, test_b, job.seed)
        )
        native = explained_variance(others[subject_saes.OWN][site], test_b)
        found.append({"metric": "explained_variance", "group": "native", "value": native})
        found += token_rows(sae, fit_a, fit_b, test_b, task["tokens"])
        for init, theirs in others.items():
            found += decoder_rows(sae.W_dec, theirs[site].W_dec, maps, task["threshold"], init)
        found += _initial_rows(job, site, sae, others[subject_saes.OWN][site])
        rows += [{"cohort": task["cohort"], "site": site, **row} for row in found]
    return rows


def measure_firing(job: Job, store: Store) -> list[Row]:
    """Table b7: where the anchor's SAE fires on the other model, by group."""
    saes, rows = subject_saes.load_saes(job, store, "anchor"), []
    for site, fit, (test_a, test_b) in pairs(job, store):
        found = firing_rows(saes[site], test_a, test_b, fit_maps(*fit), job.task["recovered"])
        rows += [{"cohort": job.task["cohort"], "site": site, **row} for row in found]
    return rows


def pairs(job: Job, store: Store) -> Iterator[tuple[str, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Site by site, the streams of anchor and other on the tokens to fit on, and on those to measure on."""
    ends = subjects.load_pair(job, store)
    fit = [end.streams("fit", max(job.task["tokens"])) for end in ends]
    test = [end.streams("test", job.task["test_tokens"]) for end in ends]
    for site in ends[0].sites:
        yield site, (fit[0][site], fit[1][site]), (test[0][site], test[1][site])


def _initial_rows(job: Job, site: str, sae: Any, other: Any) -> Iterator[Row]:
    """How near SAEs stay to where they began, and how alike two look that never were trained."""
    width = sae.cfg.d_in
    began = [
        subject_saes.initial_sae(job, site, init, width).W_dec
        for init in (subject_saes.SAME, subject_saes.OWN)
    ]
    for init, trained, initial in zip(
        (subject_saes.SAME, subject_saes.OWN), (sae, other), began, strict=True
    ):
        cosine = (unit(trained.W_dec) * unit(initial)).sum(1)
        yield {"metric": "cosine_to_initial", "init": init, "value": float(cosine.mean())}
    for metric, value in match_decoders(*began).values(job.task["threshold"]).items():
        yield {"metric": f"decoder_{metric}", "group": RAW, "init": "untrained", "value": value}


def unit(rows: Tensor) -> Tensor:
    """Rows [n, d] scaled to length 1, on the CPU in float64."""
    wide = rows.detach().cpu().double()
    return wide / wide.norm(dim=1, keepdim=True).clamp_min(1e-12)
