"""Say where in a model an SAE or a direction sits, by the name of its hook.

A name is a hook of TransformerLens (``blocks.3.hook_resid_post``), a transformers module, for its output
(``model.layers.3.mlp``), or a site of this package (``block3``). There are three kinds of sites:

* ``stream``: the residual stream, what is written to it, and a norm of it *before* its gain. Every gauge of
  the model acts on these as on the stream: ``n(x) = x / rms(x)`` has ``n(g·x) = g·n(x)`` for orthogonal g,
  and LayerNorm's ``n`` for those g that keep the mean. TransformerLens has ``ln1.hook_normalized`` here,
  before the gain ``w``, whether it has folded the model or not.
* ``gain``: a norm's output ``y = γ ⊙ n(x) + β``, *behind* its gain, and the inputs of attention and MLP,
  which are such outputs. The module of a norm in transformers and ``ln1.hook_out`` are here. The moved model
  has γ' = γ permuted and β' = g·β, so a signed permutation acts as on the stream:
  ``γ' ⊙ g·n + g·β = g·(γ ⊙ n + β)``. A rotation does not: it mixes coordinates that γ has scaled. Folding
  the gains makes this the first kind, in other units: the folded model has ``y' = n + β/γ = y / γ``.
* ``off``: heads, neurons and attention patterns, which no residual gauge touches.
"""

from __future__ import annotations

import re
from typing import Literal

Site = Literal["stream", "gain", "off"]

_TRANSFORMER_LENS_BLOCK = r"(?:blocks\.\d+\.)?"
_TRANSFORMERS_BLOCK = r"(?:[a-z_]+\.)*(?:layers|h)\.\d+"
_STREAM = re.compile(
    rf"{_TRANSFORMER_LENS_BLOCK}hook_(?:resid_(?:pre|mid|post)|(?:attn|mlp)_(?:in|out)|[qkv]_input|embed|pos_embed)"
    rf"|{_TRANSFORMER_LENS_BLOCK}(?:attn\.hook_result|ln(?:[12](?:_post)?|_final)\.hook_(?:normalized|in))"
    rf"|{_TRANSFORMER_LENS_BLOCK}(?:hook_(?:in|out)|(?:attn|mlp)\.hook_out)"
    rf"|embed|block\d+|(?:[a-z_]+\.)*(?:embed_tokens|embed_in|wte|wpe)"
    rf"|{_TRANSFORMERS_BLOCK}(?:\.(?:self_attn|attn|attention|mlp))?"
    rf"|{_TRANSFORMERS_BLOCK}\.\w+\.(?:o_proj|c_proj|dense|down_proj|dense_4h_to_h)"
)
_GAIN = re.compile(
    rf"{_TRANSFORMER_LENS_BLOCK}ln(?:[12](?:_post)?|_final)\.hook_out"
    rf"|{_TRANSFORMER_LENS_BLOCK}(?:attn|mlp)\.hook_in"
    rf"|(?:[a-z_]+\.)*(?:norm|final_layer_norm|ln_f)"
    rf"|{_TRANSFORMERS_BLOCK}\.(?:\w*layernorm|ln_[12])"
)
_OFF = re.compile(
    rf"{_TRANSFORMER_LENS_BLOCK}(?:attn\.)?hook_(?:q|k|v|z|rot_q|rot_k|attn_scores|pattern)"
    rf"|{_TRANSFORMER_LENS_BLOCK}mlp\.(?:hook_(?:pre|post|pre_linear|mid)|ln\.hook_normalized)"
    rf"|{_TRANSFORMERS_BLOCK}\.\w+\.(?:[qkv]_proj|qkv_proj|query_key_value|c_attn|[qk]_norm"
    rf"|gate_proj|up_proj|gate_up_proj|c_fc|dense_h_to_4h|act|act_fn)"
)
_READS_GAIN = re.compile(rf"{_TRANSFORMERS_BLOCK}\.(?:self_attn|attn|attention|mlp)")
_READS_STREAM = re.compile(
    rf"{_TRANSFORMERS_BLOCK}(?:\.(?:\w*layernorm|ln_[12]))?|(?:[a-z_]+\.)*(?:norm|final_layer_norm|ln_f)"
)


def site_of(hook: str) -> Site | None:
    """Return the kind of site that a hook, module or site name stands for, or None for an unknown name."""
    for kind, names in (("off", _OFF), ("gain", _GAIN), ("stream", _STREAM)):
        if names.fullmatch(hook):
            return kind  # type: ignore[return-value]  # the three words of Site
    return None


def input_site_of(module: str) -> Site:
    """Return the kind of site that a transformers module reads.

    Raises:
        ValueError: If the module is not a block, norm, attention or MLP.
    """
    if _READS_GAIN.fullmatch(module):
        return "gain"
    if _READS_STREAM.fullmatch(module):
        return "stream"
    raise ValueError(
        f"cannot tell what the module {module!r} reads; name it by hook=, and what it writes by hook_out="
    )
