"""Table d11: how alike two models' SAE decoders look, by how long the SAEs were trained and from which start.

Paper B, section 7.1, reports the share of decoder columns with a partner in another seed's SAE. Two SAEs that
start from the same weights and have hardly moved have it too, whatever their models share. The sweep is not
in the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import cosine_similarity

from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.features.universality import explained_variance
from gaugeport.pipeline.rotation.lenses.decoder_matching import match_decoders
from gaugeport.pipeline.rotation.lenses.dictionaries import train_dictionary, untrained_dictionary
from gaugeport.pipeline.stages import pair_saes, pairs
from gaugeport.pipeline.stages.pair_saes import OWN, SAME, sae_seed
from gaugeport.pipeline.stages.saes import load_sae
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared.checks import check_cohort
from gaugeport.pipeline.tasks.task import Row, Task
from gaugeport.streams.massive import leave_out_massive

UNTRAINED = "untrained"
PLACES = ("middle", "last")


def check(job: Job) -> None:
    """Check the cohort, the SAEs' settings and the sweep.

    Raises:
        ValueError: A value is not allowed.
    """
    check_cohort(job)
    pair_saes.check_saes(job)
    task = job.task
    if not task["places"] or set(task["places"]) - set(PLACES):
        raise ValueError(f"task.places={list(task['places'])}; allowed: {', '.join(PLACES)}")
    if not task["steps"] or any(not isinstance(n, int) or n < 1 for n in task["steps"]):
        raise ValueError(f"task.steps={list(task['steps'])}; allowed: whole numbers from 1")
    if not isinstance(task["start_norm"], int | float) or task["start_norm"] <= 0:
        raise ValueError(f"task.start_norm={task['start_norm']!r}; allowed: positive numbers")
    if not task["rates"] or min(task["rates"]) <= 0:
        raise ValueError(f"task.rates={list(task['rates'])}; allowed: positive numbers")


def measure(job: Job, built: Built) -> list[Row]:
    """Return how alike the decoders look by site, learning rate, number of steps and start."""
    anchor, other = pairs.load_pair(job, built.folders)
    activations, massive = job.task["sae"]["activations"], job.measurement.massive
    train_a, train_b = (side.streams("sae", activations) for side in (anchor, other))
    test_a = anchor.streams("test", job.task["test_tokens"])
    rows: list[Row] = []
    for place in job.task["places"]:
        site = site_at(anchor.sites, place, pairs.is_toy(job))
        # each by itself: SAEs of the anchor are those of all its pairs
        a, b, test = (leave_out_massive(x[site], massive=massive)[0] for x in (train_a, train_b, test_a))
        at = {"cohort": job.task["cohort"], "site": site, "place": place}
        rows += [{**at, **row} for row in _site_rows(job, built, site, a, b, test)]
    return rows


def site_at(sites: Sequence[str], place: str, toy: bool) -> str:
    """Return a pair's site by name: the last, or the one in the middle of the stack, block L/2.

    The toy's middle is the stream before its last MLP, as in the other claims of paper B.
    """
    if place == "last":
        return sites[-1]
    return sites[-2] if toy else sites[1 + (len(sites) - 1) // 2]  # the first is the embedding


def _site_rows(job: Job, built: Built, site: str, a: Tensor, b: Tensor, test: Tensor) -> Iterator[Row]:
    """Yield the rows of one site from the streams that SAEs of the anchor and of the other are trained on.

    SAEs of the anchor are kept in the store.
    """
    task, width = job.task, a.shape[1]
    sae = {**task["sae"], "decoder_norm": task["start_norm"]}
    seeds = {init: sae_seed(job, site, init) for init in (SAME, OWN)}
    start = {init: untrained_dictionary(sae, task["expansion"], width, s) for init, s in seeds.items()}
    yield from _alike(job, start[SAME], start[OWN], {"init": UNTRAINED})

    def trained(x: Tensor, init: str, settings: dict[str, Any]) -> Any:
        return train_dictionary(x, settings, task["expansion"], seeds[init], site, job.model.name)

    def writing(x: Tensor, settings: dict[str, Any]) -> Callable[[Path], None]:
        return lambda folder: trained(x, SAME, settings).save_inference_model(folder)

    for lr in task["rates"]:
        for steps in task["steps"]:
            settings = {**sae, "lr": lr, "tokens": steps * sae["batch_size"]}
            at = {"lr": lr, "steps": steps}
            key = {**pair_saes.saes_key(job, "anchor"), "sae": settings, "site": site}
            ours = load_sae(built.cache.ensure("swept_saes", key, writing(a, settings)))
            for init in (SAME, OWN):
                yield from _alike(job, ours, trained(b, init, settings), {**at, "init": init})
            to_start = cosine_similarity(ours.W_dec, start[SAME].W_dec).mean().detach()
            yield {"metric": "cosine_to_initial", "init": SAME, "value": float(to_start), **at}
            explained = explained_variance(ours, test)
            yield {"metric": "explained_variance", "init": SAME, "value": explained, **at}


def _alike(job: Job, ours: Any, theirs: Any, at: dict[str, Any]) -> Iterator[Row]:
    """Yield how alike two decoders look, nothing rotated."""
    values = match_decoders(ours.W_dec, theirs.W_dec).values(job.task["threshold"])
    yield from ({"metric": f"decoder_{metric}", "value": value, **at} for metric, value in values.items())


TASK = Task(measure, pairs.pair_stages, check)
