"""What is in stream coordinates in each architecture of sae-lens: axes by parameter, normalisations, hook names."""

from __future__ import annotations

import re

# What each axis is: where the encoder reads ("in"), where the decoder writes ("out"; the same for all but transcoders),
# a latent, or a width inside an architecture ("inner"). "*" stands for a layer number.
Axes = dict[str, tuple[str, ...]]
DECODER: Axes = {"W_dec": ("latent", "out"), "b_dec": ("out",)}
STREAM: Axes = {"W_enc": ("in", "latent"), **DECODER}
BIAS: Axes = {"b_enc": ("latent",)}
THRESHOLD: Axes = {"threshold": ("latent",)}
SKIP: Axes = {"W_skip": ("out", "in")}
ATTENTION: Axes = {  # over latents of earlier tokens
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
    # scaled outside the SAE, or by a number: rotations pass through, a shift would have to be scaled too
    "expected_average_only_in": "orthogonal",
    "constant_scalar_rescale": "orthogonal",
    "constant_norm_rescale": "orthogonal",  # the Euclidean norm
    # the mean over coordinates, and what is left once it is gone: S_d × {±1} and the rotations that fix ±1
    "layer_norm": "mean_preserving_orthogonal",
}
"""The largest group that commutes with each ``normalize_activations``."""

# Hook names are TransformerLens' (``blocks.3.hook_resid_post``), transformers' modules, whose output is meant
# (``model.layers.3.mlp``), and this package's sites (``block3``).
_TL = r"(?:blocks\.\d+\.)?"
_HF = r"(?:[a-z_]+\.)*(?:layers|h)\.\d+"
ON_STREAM = re.compile(
    rf"{_TL}hook_(?:resid_(?:pre|mid|post)|(?:attn|mlp)_(?:in|out)|[qkv]_input|embed|pos_embed)"
    rf"|{_TL}(?:attn\.hook_result|ln(?:[12](?:_post)?|_final)\.hook_normalized)"
    rf"|{_TL}(?:(?:attn|mlp|ln[12](?:_post)?)\.)?hook_(?:in|out)"
    rf"|embed|block\d+|(?:[a-z_]+\.)*(?:embed_tokens|embed_in|wte|wpe|norm|final_layer_norm|ln_f)"
    rf"|{_HF}(?:\.(?:self_attn|attn|attention|mlp|\w*layernorm|ln_[12]))?"
    rf"|{_HF}\.\w+\.(?:o_proj|c_proj|dense|down_proj|dense_4h_to_h)"
)
OFF_STREAM = re.compile(
    rf"{_TL}(?:attn\.)?hook_(?:q|k|v|z|rot_q|rot_k|attn_scores|pattern)"
    rf"|{_TL}mlp\.(?:hook_(?:pre|post|pre_linear|mid)|ln\.hook_normalized)"
    rf"|{_HF}\.\w+\.(?:[qkv]_proj|qkv_proj|query_key_value|c_attn|[qk]_norm"
    rf"|gate_proj|up_proj|gate_up_proj|c_fc|dense_h_to_4h|act|act_fn)"
)
