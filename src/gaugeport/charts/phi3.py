"""Declare Phi3: like Llama, but with q, k, v in one matrix and gate, up in another."""

from gaugeport.charts.rules import Family, Rule

ATTN_NORM = "model.layers.*.input_layernorm"
MLP_NORM = "model.layers.*.post_attention_layernorm"

FAMILY = Family(
    name="phi3",
    model_types=("phi3",),
    norm="rms",
    embedding="model.embed_tokens",
    blocks="model.layers",
    final_norm="model.norm",
    unembedding="lm_head",
    rules=(
        Rule("model.embed_tokens.weight", ("none", "vector"), "embed"),
        Rule("model.layers.*.self_attn.qkv_proj.weight", ("none", "vector"), "read", norm=ATTN_NORM),
        Rule("model.layers.*.self_attn.o_proj.weight", ("vector", "none"), "write"),
        Rule("model.layers.*.mlp.gate_up_proj.weight", ("none", "vector"), "read", norm=MLP_NORM),
        Rule("model.layers.*.mlp.down_proj.weight", ("vector", "none"), "write"),
        Rule("model.layers.*.input_layernorm.weight", ("gain",), "gain", norm=ATTN_NORM),
        Rule("model.layers.*.post_attention_layernorm.weight", ("gain",), "gain", norm=MLP_NORM),
        Rule("model.norm.weight", ("gain",), "gain", norm="model.norm"),
        Rule("lm_head.weight", ("none", "vector"), "unembed", norm="model.norm"),
        Rule("model.rotary_emb.{,original_,long_}inv_freq", ("none",), "invariant"),
    ),
    neurons=(
        ("model.layers.*.mlp.gate_up_proj.weight", 0),
        ("model.layers.*.mlp.down_proj.weight", 1),
    ),
)
