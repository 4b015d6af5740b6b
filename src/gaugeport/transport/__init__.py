"""Carrying what is written in one model's residual coordinates into another's."""

from gaugeport.transport.directions import lost_share, transport_direction, transport_magnitude
from gaugeport.transport.heads import HeadGauge, match_heads
from gaugeport.transport.indices import MovedIndices, transport_indices
from gaugeport.transport.lora import fold_lora, transport_lora
from gaugeport.transport.merge import Merged, merge
from gaugeport.transport.model import transport_model
from gaugeport.transport.neurons import NeuronGauge, match_neurons
from gaugeport.transport.optimizer import transport_optimizer
from gaugeport.transport.sae import transport_sae

__all__ = [
    "HeadGauge",
    "Merged",
    "MovedIndices",
    "NeuronGauge",
    "fold_lora",
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
