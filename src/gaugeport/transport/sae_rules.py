"""Declare what is in stream coordinates in each sae-lens architecture: axes and normalisations."""

from __future__ import annotations

Axes = dict[str, tuple[str, ...]]
"""The axes of each parameter: "in" where the encoder reads, "out" where the decoder writes (the same space,
except in transcoders), "latent", or "inner" for a width inside an architecture. ``*`` is a layer."""

DECODER: Axes = {"W_dec": ("latent", "out"), "b_dec": ("out",)}
STREAM: Axes = {"W_enc": ("in", "latent"), **DECODER}
BIAS: Axes = {"b_enc": ("latent",)}
THRESHOLD: Axes = {"threshold": ("latent",)}
SKIP: Axes = {"W_skip": ("out", "in")}
ATTENTION: Axes = {  # of a temporal SAE, over latents of earlier tokens
    **{f"attn_layers.*.{n}.weight": ("inner", "latent") for n in ("k_ctx", "q_target")},
    **{f"attn_layers.*.{n}.bias": ("inner",) for n in ("k_ctx", "q_target")},
    **{f"attn_layers.*.{n}.weight": ("latent", "latent") for n in ("v_ctx", "c_proj")},
    **{f"attn_layers.*.{n}.bias": ("latent",) for n in ("v_ctx", "c_proj")},
}
ARCHITECTURES: dict[str, Axes] = {
    "standard": STREAM | BIAS,
    "gated": STREAM | {n: ("latent",) for n in ("b_gate", "b_mag", "r_mag")},
    "topk": STREAM | BIAS,
    "abstopk": STREAM | BIAS,
    "batchtopk": STREAM | BIAS | {"topk_threshold": ()},
    "matryoshka_batchtopk": STREAM | BIAS | {"topk_threshold": ()},
    "jumprelu": STREAM | BIAS | THRESHOLD,
    "matching_pursuit": DECODER,  # its W_enc is a view of W_dec
    "temporal": STREAM | ATTENTION,
    "transcoder": STREAM | BIAS,
    "skip_transcoder": STREAM | BIAS | SKIP,
    "jumprelu_transcoder": STREAM | BIAS | THRESHOLD,
    "jumprelu_skip_transcoder": STREAM | BIAS | THRESHOLD | SKIP,
}

USES_DECODER = {
    "matching_pursuit": "its encoder is the decoder",
    "temporal": "it projects on what the decoder predicts",
}
"""How the latents of an architecture depend on lengths and angles in the decoder."""

COVARIANT_UNDER = {
    "none": "affine",
    # scaled outside the SAE, or by a number: rotations commute with that, a shift would have to be scaled too
    "expected_average_only_in": "orthogonal",
    "constant_scalar_rescale": "orthogonal",
    "constant_norm_rescale": "orthogonal",  # the Euclidean norm
    # subtracts the mean: allows S_d × {±1} and the rotations that fix the all-ones direction up to sign
    "layer_norm": "mean_preserving_orthogonal",
}
"""The largest group that commutes with each ``normalize_activations``."""


def use_of_decoder(architecture: str, rescales: bool) -> str | None:
    """Say how the latents of an SAE depend on its decoder, or return None if they do not.

    Args:
        architecture: A key of :data:`ARCHITECTURES`.
        rescales: Whether the config says ``rescale_acts_by_decoder_norm``.
    """
    return "rescale_acts_by_decoder_norm" if rescales else USES_DECODER.get(architecture)
