"""Declare paper B's Dyck-3 model: pre-norm RMSNorm, ReLU MLP, three unembeddings, fixed position features."""

from gaugeport.charts.rules import Family, Rule

ATTN_NORM = "model.layers.*.input_layernorm"
MLP_NORM = "model.layers.*.post_attention_layernorm"

FAMILY = Family(
    name="dyck",
    model_types=("dyck3",),
    norm="rms",
    embedding="model.embed_tokens",
    blocks="model.layers",
    final_norm="model.norm",
    unembedding="lm_head",
    rules=(
        Rule("model.embed_tokens.weight", ("none", "vector"), "embed"),
        Rule("model.position", ("none", "vector"), "position"),
        Rule("model.layers.*.self_attn.{q,k,v}_proj.weight", ("none", "vector"), "read", norm=ATTN_NORM),
        Rule("model.layers.*.self_attn.o_proj.weight", ("vector", "none"), "write"),
        Rule("model.layers.*.mlp.up_proj.weight", ("none", "vector"), "read", norm=MLP_NORM),
        Rule("model.layers.*.mlp.down_proj.weight", ("vector", "none"), "write"),
        Rule("model.layers.*.input_layernorm.weight", ("gain",), "gain", norm=ATTN_NORM),
        Rule("model.layers.*.post_attention_layernorm.weight", ("gain",), "gain", norm=MLP_NORM),
        Rule("model.norm.weight", ("gain",), "gain", norm="model.norm"),
        Rule("{lm,depth,valid}_head.weight", ("none", "vector"), "unembed", norm="model.norm"),
    ),
    neurons=(
        ("model.layers.*.mlp.up_proj.weight", 0),
        ("model.layers.*.mlp.down_proj.weight", 1),
    ),
)
