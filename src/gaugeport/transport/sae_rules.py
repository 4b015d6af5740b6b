"""Declare what is in stream coordinates in each sae-lens architecture: axes, normalisations, hooks."""

from __future__ import annotations

import re

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

# A hook name is one of TransformerLens (``blocks.3.hook_resid_post``), the name of a transformers module, for
# its output (``model.layers.3.mlp``), or a site of this package (``block3``).
_TRANSFORMER_LENS_BLOCK = r"(?:blocks\.\d+\.)?"
_TRANSFORMERS_BLOCK = r"(?:[a-z_]+\.)*(?:layers|h)\.\d+"
ON_STREAM = re.compile(
    rf"{_TRANSFORMER_LENS_BLOCK}hook_(?:resid_(?:pre|mid|post)|(?:attn|mlp)_(?:in|out)|[qkv]_input|embed|pos_embed)"
    rf"|{_TRANSFORMER_LENS_BLOCK}(?:attn\.hook_result|ln(?:[12](?:_post)?|_final)\.hook_normalized)"
    rf"|{_TRANSFORMER_LENS_BLOCK}(?:(?:attn|mlp|ln[12](?:_post)?)\.)?hook_(?:in|out)"
    rf"|embed|block\d+|(?:[a-z_]+\.)*(?:embed_tokens|embed_in|wte|wpe|norm|final_layer_norm|ln_f)"
    rf"|{_TRANSFORMERS_BLOCK}(?:\.(?:self_attn|attn|attention|mlp|\w*layernorm|ln_[12]))?"
    rf"|{_TRANSFORMERS_BLOCK}\.\w+\.(?:o_proj|c_proj|dense|down_proj|dense_4h_to_h)"
)
OFF_STREAM = re.compile(
    rf"{_TRANSFORMER_LENS_BLOCK}(?:attn\.)?hook_(?:q|k|v|z|rot_q|rot_k|attn_scores|pattern)"
    rf"|{_TRANSFORMER_LENS_BLOCK}mlp\.(?:hook_(?:pre|post|pre_linear|mid)|ln\.hook_normalized)"
    rf"|{_TRANSFORMERS_BLOCK}\.\w+\.(?:[qkv]_proj|qkv_proj|query_key_value|c_attn|[qk]_norm"
    rf"|gate_proj|up_proj|gate_up_proj|c_fc|dense_h_to_4h|act|act_fn)"
)
