"""Declare GPT-2: LayerNorm, learned positions, Conv1D matrices stored as [in, out], tied embeddings."""

from gaugeport.charts.rules import Family, Rule

ATTN_NORM = "transformer.h.*.ln_1"
MLP_NORM = "transformer.h.*.ln_2"
FINAL_NORM = "transformer.ln_f"

FAMILY = Family(
    name="gpt2",
    model_types=("gpt2",),
    norm="layer",
    embedding="transformer.wte",
    blocks="transformer.h",
    final_norm=FINAL_NORM,
    unembedding="lm_head",
    rules=(
        Rule("transformer.wte.weight", ("none", "vector"), "embed"),
        Rule("transformer.wpe.weight", ("none", "vector"), "position"),
        Rule("transformer.h.*.attn.c_attn.weight", ("vector", "none"), "read", norm=ATTN_NORM),
        Rule("transformer.h.*.attn.c_attn.bias", ("none",), "invariant"),
        Rule("transformer.h.*.attn.c_proj.weight", ("none", "vector"), "write"),
        Rule("transformer.h.*.attn.c_proj.bias", ("vector",), "write_bias"),
        Rule("transformer.h.*.mlp.c_fc.weight", ("vector", "none"), "read", norm=MLP_NORM),
        Rule("transformer.h.*.mlp.c_fc.bias", ("none",), "invariant"),
        Rule("transformer.h.*.mlp.c_proj.weight", ("none", "vector"), "write"),
        Rule("transformer.h.*.mlp.c_proj.bias", ("vector",), "write_bias"),
        Rule("transformer.h.*.ln_1.weight", ("gain",), "gain", norm=ATTN_NORM),
        Rule("transformer.h.*.ln_1.bias", ("vector",), "norm_bias", norm=ATTN_NORM),
        Rule("transformer.h.*.ln_2.weight", ("gain",), "gain", norm=MLP_NORM),
        Rule("transformer.h.*.ln_2.bias", ("vector",), "norm_bias", norm=MLP_NORM),
        Rule("transformer.ln_f.weight", ("gain",), "gain", norm=FINAL_NORM),
        Rule("transformer.ln_f.bias", ("vector",), "norm_bias", norm=FINAL_NORM),
        Rule("lm_head.weight", ("none", "vector"), "unembed", norm=FINAL_NORM),
        # the causal mask: a buffer in transformers before 5.2
        Rule("transformer.h.*.attn.bias", ("none", "none", "none", "none"), "invariant"),
    ),
    neurons=(
        ("transformer.h.*.mlp.c_fc.weight", 1),
        ("transformer.h.*.mlp.c_fc.bias", 0),
        ("transformer.h.*.mlp.c_proj.weight", 0),
    ),
)
