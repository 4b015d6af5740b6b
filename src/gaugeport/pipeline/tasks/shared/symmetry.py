"""The symmetry search between a Dyck-3 model and the anchor of its cohort (tables b2 and b10)."""

from __future__ import annotations

from gaugeport.models.dyck import DyckModel
from gaugeport.pipeline.job import Job
from gaugeport.pipeline.rotation.matching.search import SymmetryFit, fit_symmetry
from gaugeport.utils.seeds import generator


def search_symmetry(
    job: Job, model: DyckModel, reference: DyckModel, residual: str, strict: bool = True
) -> SymmetryFit:
    """Search for the element of the residual group that brings a model nearest to the anchor.

    Args:
        job: Its seed and ``task.starts`` fix the search.
        model: The model.
        reference: The anchor.
        residual: The name of the group of residual elements.
        strict: Refuse groups whose elements change the model's function.
    """
    gen = generator(job.seed, "symmetry search")
    return fit_symmetry(model, reference, residual, job.task["starts"], generator=gen, strict=strict)
