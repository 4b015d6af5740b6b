"""Declare Qwen2 and Qwen3: like Llama, with qkv biases (Qwen2) or q/k norms per head (Qwen3)."""

from gaugeport.charts.rules import Family, Rule

ATTN_NORM = "model.layers.*.input_layernorm"
MLP_NORM = "model.layers.*.post_attention_layernorm"

FAMILY = Family(
    name="qwen",
    model_types=("qwen2", "qwen3"),
    norm="rms",
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
        Rule("model.layers.*.post_attention_layernorm.weight", ("gain",), "gain", norm=MLP_NORM),
        Rule("model.norm.weight", ("gain",), "gain", norm="model.norm"),
        Rule("lm_head.weight", ("none", "vector"), "unembed", norm="model.norm"),
        Rule("model.rotary_emb.{,original_}inv_freq", ("none",), "invariant"),
    ),
    neurons=(
        ("model.layers.*.mlp.{gate,up}_proj.weight", 0),
        ("model.layers.*.mlp.down_proj.weight", 1),
    ),
)
