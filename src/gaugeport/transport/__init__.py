"""Move what is written in one model's residual coordinates into another's.

A gauge ``g`` changes coordinates from A to B: ``x' = g·x``. The table says by which rule an object moves, and
under which groups the result is exact (S_d: permutations, B_d: signed permutations, O(d): rotations):

==================================  ======================================  ==================================
object                              rule                                    groups
==================================  ======================================  ==================================
parameters and buffers of a model   each axis as its chart says             the chart's; others raise
steering vectors, probes,           vector: permuted and signed (or         all; an affine gauge acts by its
gradients, signed means             rotated)                                linear part
products, absolute values,          permuted only                           S_d, B_d; O(d) and affine gauges
variances, integrated gradients                                             raise
lists of coordinates                index j becomes argsort(perm)[j], its   S_d, B_d; O(d) raises
                                    sign is returned beside it
lists of neurons or heads           invariant                               all; they have gauges of their own
SAE on the residual stream          vector: W_enc rows, W_dec columns,      all; with layer_norm only those
                                    b_dec, W_skip on both axes;             that keep the mean; unfolded
                                    invariant: latents, b_enc               whitening raises
SAE behind the gain of a norm       as on the stream; fold_sae folds it     S_d, B_d; O(d) once folded
SAE on heads or neurons             invariant, with a warning               all
LoRA                                vector: A of readers, B of writers      the chart's; others raise, and so
                                    and embeddings; full tensors by chart   do VeRA, IA3 and other adapters
DoRA magnitudes of writers          permuted only                           S_d, B_d; O(d) raises
Adam, AdamW                         vector: first moment;                   S_d, B_d; O(d) raises
                                    permuted only: second moments
Lion; Adafactor                     vector; means of squares permuted       S_d, B_d; O(d) raises
SGD momentum, Muon                  vector                                  all of the chart's; O(d) raises if
                                                                            a norm gain is trained
==================================  ======================================  ==================================

What lies in files moves from file to file in its own format: ``transport_direction_file``,
``transport_indices_file``, ``transport_sae_file`` (sae-lens, sparsify, dictionary_learning),
``transport_lora`` and ``transport_optimizer``. A result never lies in or over its source.

Files in reading order: ``axis`` (one gauge on one axis, fast), ``directions`` and ``indices``, ``model``;
``units``, ``neurons`` and ``heads`` (gauges of neurons and heads), ``weight_alignment`` (the residual gauge
with both, from weights in any order), ``merge``; ``folders`` (what is copied beside moved tensors);
``sae_rules``, ``sae_sites``, ``sae_description``, ``sae``, ``sae_formats``, ``sae_file`` and ``sae_fold``;
``direction_formats``, ``control_vectors``, ``direction_files``, ``index_files`` and ``steering_vectors``;
``lora_rules``, ``lora_files`` and ``lora``; ``optimizer_rules`` (which optimizer is covariant under which
group), ``optimizer_names`` (which state belongs to which parameter), ``optimizer_checks``,
``optimizer_checkpoint`` (Trainer's folders), ``optimizer_accelerate`` and ``optimizer``;
``checkpoint_manifest``, ``checkpoint_files`` (what is moved, copied or left out), ``checkpoint_moves``,
``checkpoint_checks``, ``checkpoint_shards`` and ``checkpoint`` (a model folder, from file to file, without
loading it). May import ``utils``, ``groups``, ``charts``, ``models``, ``streams`` and ``alignment``.
"""

from gaugeport.transport.checkpoint import transport_checkpoint
from gaugeport.transport.direction_files import transport_direction_file
from gaugeport.transport.directions import lost_share, transport_direction, transport_magnitude
from gaugeport.transport.heads import HeadGauge, match_heads
from gaugeport.transport.index_files import transport_indices_file
from gaugeport.transport.indices import MovedIndices, transport_indices
from gaugeport.transport.lora import fold_lora, transport_lora
from gaugeport.transport.merge import Merged, merge
from gaugeport.transport.model import transport_model
from gaugeport.transport.neurons import NeuronGauge, match_neurons
from gaugeport.transport.optimizer import transport_optimizer
from gaugeport.transport.sae import transport_sae
from gaugeport.transport.sae_file import transport_sae_file
from gaugeport.transport.sae_fold import fold_sae, fold_sae_file
from gaugeport.transport.steering_vectors import transport_steering_vector
from gaugeport.transport.weight_alignment import WeightAlignment, align_weights

__all__ = [
    "HeadGauge",
    "Merged",
    "MovedIndices",
    "NeuronGauge",
    "WeightAlignment",
    "align_weights",
    "fold_lora",
    "fold_sae",
    "fold_sae_file",
    "lost_share",
    "match_heads",
    "match_neurons",
    "merge",
    "transport_checkpoint",
    "transport_direction",
    "transport_direction_file",
    "transport_indices",
    "transport_indices_file",
    "transport_lora",
    "transport_magnitude",
    "transport_model",
    "transport_optimizer",
    "transport_sae",
    "transport_sae_file",
    "transport_steering_vector",
]
