"""Declare OLMo2: no norm before a reader, and a norm with a gain after every writer.

Its q/k norms span all heads. Their width happens to be d, but they are not stream coordinates: names decide.
"""

from gaugeport.charts.rules import Family, Rule

FAMILY = Family(
    name="olmo2",
    model_types=("olmo2",),
    norm="rms",
    post_norm=True,
    embedding="model.embed_tokens",
    blocks="model.layers",
    final_norm="model.norm",
    unembedding="lm_head",
    rules=(
        Rule("model.embed_tokens.weight", ("none", "vector"), "embed"),
        Rule("model.layers.*.self_attn.{q,k,v}_proj.weight", ("none", "vector"), "read"),
        Rule("model.layers.*.self_attn.{q,k,v}_proj.bias", ("none",), "invariant"),
        Rule("model.layers.*.self_attn.{q,k}_norm.weight", ("none",), "invariant"),
        Rule("model.layers.*.self_attn.o_proj.weight", ("vector", "none"), "write"),
        Rule("model.layers.*.self_attn.o_proj.bias", ("vector",), "write_bias"),
        Rule("model.layers.*.mlp.{gate,up}_proj.weight", ("none", "vector"), "read"),
        Rule("model.layers.*.mlp.down_proj.weight", ("vector", "none"), "write"),
        Rule(
            "model.layers.*.post_attention_layernorm.weight",
            ("gain",),
            "gain",
            norm="model.layers.*.post_attention_layernorm",
        ),
        Rule(
            "model.layers.*.post_feedforward_layernorm.weight",
            ("gain",),
            "gain",
            norm="model.layers.*.post_feedforward_layernorm",
        ),
        Rule("model.norm.weight", ("gain",), "gain", norm="model.norm"),
        Rule("lm_head.weight", ("none", "vector"), "unembed", norm="model.norm"),
        Rule("model.rotary_emb.{,original_}inv_freq", ("none",), "invariant"),
    ),
    neurons=(
        ("model.layers.*.mlp.{gate,up}_proj.weight", 0),
        ("model.layers.*.mlp.down_proj.weight", 1),
    ),
)
