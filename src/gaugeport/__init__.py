"""gaugeport: which coordinates of one transformer checkpoint are which of another, and how things move across.

>>> import gaugeport as gp
>>> found = gp.align(model_a, model_b, batches)      # g with g·x_A ≈ x_B  # doctest: +SKIP
>>> moved = gp.transport_model(model_a, found.gauge)  # A, in B's coordinates  # doctest: +SKIP
"""

from gaugeport.alignment.align import Alignment, align, align_along
from gaugeport.charts import Certificate, Chart, certify, chart_of, fold_gains
from gaugeport.groups import (
    AffineGauge,
    GlobalSignPermutation,
    MeanPreservingOrthogonal,
    Orthogonal,
    Permutation,
    SignedPermutation,
    compose,
)
from gaugeport.groups import load as load_gauge
from gaugeport.groups import provenance as gauge_provenance
from gaugeport.models.loading import load_model, load_tokenizer
from gaugeport.transport import (
    HeadGauge,
    Merged,
    MovedIndices,
    NeuronGauge,
    fold_lora,
    lost_share,
    match_heads,
    match_neurons,
    merge,
    transport_direction,
    transport_indices,
    transport_lora,
    transport_magnitude,
    transport_model,
    transport_optimizer,
    transport_sae,
)

__all__ = [
    "AffineGauge",
    "Alignment",
    "Certificate",
    "Chart",
    "GlobalSignPermutation",
    "HeadGauge",
    "MeanPreservingOrthogonal",
    "Merged",
    "MovedIndices",
    "NeuronGauge",
    "Orthogonal",
    "Permutation",
    "SignedPermutation",
    "align",
    "align_along",
    "certify",
    "chart_of",
    "compose",
    "fold_gains",
    "fold_lora",
    "gauge_provenance",
    "load_gauge",
    "load_model",
    "load_tokenizer",
    "lost_share",
    "match_heads",
    "match_neurons",
    "merge",
    "transport_direction",
    "transport_indices",
    "transport_lora",
    "transport_magnitude",
    "transport_model",
    "transport_optimizer",
    "transport_sae",
]
