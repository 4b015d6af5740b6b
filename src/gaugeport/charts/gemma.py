"""Declare Gemma2 and Gemma3 (text): the gain is 1 + weight, and norms stand before readers and after writers.

The √d embedding scale (a scalar buffer) and the soft-capping of logits treat all coordinates alike, so they
do not change the group.
"""

from gaugeport.charts.rules import Family, Rule

ATTN_NORM = "model.layers.*.input_layernorm"
MLP_NORM = "model.layers.*.pre_feedforward_layernorm"

FAMILY = Family(
    name="gemma",
    model_types=("gemma2", "gemma3_text"),
    norm="rms",
    gain_offset=1.0,
    post_norm=True,
    embedding="model.embed_tokens",
    blocks="model.layers",
    final_norm="model.norm",
    unembedding="lm_head",
    rules=(
        Rule("model.embed_tokens.weight", ("none", "vector"), "embed"),
        Rule("model.layers.*.self_attn.{q,k,v}_proj.weight", ("none", "vector"), "read", norm=ATTN_NORM),
        Rule("model.layers.*.self_attn.{q,k,v}_proj.bias", ("none",), "invariant"),
        Rule("model.layers.*.self_attn.{q,k}_norm.weight", ("none",), "invariant"),
        Rule("model.layers.*.self_attn.o_proj.weight", ("vector", "none"), "write"),
        Rule("model.layers.*.self_attn.o_proj.bias", ("vector",), "write_bias"),
        Rule("model.layers.*.mlp.{gate,up}_proj.weight", ("none", "vector"), "read", norm=MLP_NORM),
        Rule("model.layers.*.mlp.down_proj.weight", ("vector", "none"), "write"),
        Rule("model.layers.*.input_layernorm.weight", ("gain",), "gain", norm=ATTN_NORM),
        Rule(
            "model.layers.*.post_attention_layernorm.weight",
            ("gain",),
            "gain",
            norm="model.layers.*.post_attention_layernorm",
        ),
        Rule("model.layers.*.pre_feedforward_layernorm.weight", ("gain",), "gain", norm=MLP_NORM),
        Rule(
            "model.layers.*.post_feedforward_layernorm.weight",
            ("gain",),
            "gain",
            norm="model.layers.*.post_feedforward_layernorm",
        ),
        Rule("model.norm.weight", ("gain",), "gain", norm="model.norm"),
        Rule("lm_head.weight", ("none", "vector"), "unembed", norm="model.norm"),
        Rule("model.embed_tokens.embed_scale", (), "invariant"),
        Rule(
            "model.rotary_emb.{,full_attention_,sliding_attention_}{,original_}inv_freq",
            ("none",),
            "invariant",
        ),
    ),
    neurons=(
        ("model.layers.*.mlp.{gate,up}_proj.weight", 0),
        ("model.layers.*.mlp.down_proj.weight", 1),
    ),
)
