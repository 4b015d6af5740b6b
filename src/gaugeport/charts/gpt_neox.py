"""Declare GPT-NeoX (Pythia): LayerNorm with biases.

With a parallel residual both norms of a block read the same stream, which changes no rule.
"""

from gaugeport.charts.rules import Family, Rule

ATTN_NORM = "gpt_neox.layers.*.input_layernorm"
MLP_NORM = "gpt_neox.layers.*.post_attention_layernorm"
FINAL_NORM = "gpt_neox.final_layer_norm"

FAMILY = Family(
    name="gpt_neox",
    model_types=("gpt_neox",),
    norm="layer",
    embedding="gpt_neox.embed_in",
    blocks="gpt_neox.layers",
    final_norm=FINAL_NORM,
    unembedding="lm_head",
    rules=(
        Rule("gpt_neox.embed_in.weight", ("none", "vector"), "embed"),
        Rule(
            "gpt_neox.layers.*.attention.query_key_value.weight", ("none", "vector"), "read", norm=ATTN_NORM
        ),
        Rule("gpt_neox.layers.*.attention.query_key_value.bias", ("none",), "invariant"),
        Rule("gpt_neox.layers.*.attention.dense.weight", ("vector", "none"), "write"),
        Rule("gpt_neox.layers.*.attention.dense.bias", ("vector",), "write_bias"),
        Rule("gpt_neox.layers.*.mlp.dense_h_to_4h.weight", ("none", "vector"), "read", norm=MLP_NORM),
        Rule("gpt_neox.layers.*.mlp.dense_h_to_4h.bias", ("none",), "invariant"),
        Rule("gpt_neox.layers.*.mlp.dense_4h_to_h.weight", ("vector", "none"), "write"),
        Rule("gpt_neox.layers.*.mlp.dense_4h_to_h.bias", ("vector",), "write_bias"),
        Rule("gpt_neox.layers.*.input_layernorm.weight", ("gain",), "gain", norm=ATTN_NORM),
        Rule("gpt_neox.layers.*.input_layernorm.bias", ("vector",), "norm_bias", norm=ATTN_NORM),
        Rule("gpt_neox.layers.*.post_attention_layernorm.weight", ("gain",), "gain", norm=MLP_NORM),
        Rule("gpt_neox.layers.*.post_attention_layernorm.bias", ("vector",), "norm_bias", norm=MLP_NORM),
        Rule("gpt_neox.final_layer_norm.weight", ("gain",), "gain", norm=FINAL_NORM),
        Rule("gpt_neox.final_layer_norm.bias", ("vector",), "norm_bias", norm=FINAL_NORM),
        Rule("lm_head.weight", ("none", "vector"), "unembed", norm=FINAL_NORM),
        Rule("gpt_neox.rotary_emb.{,original_}inv_freq", ("none",), "invariant"),
    ),
    neurons=(
        ("gpt_neox.layers.*.mlp.dense_h_to_4h.{weight,bias}", 0),
        ("gpt_neox.layers.*.mlp.dense_4h_to_h.weight", 1),
    ),
)
