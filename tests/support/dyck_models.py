"""Small Dyck-3 models with generic weights and gains, and ways to plant something in them."""

import torch

from gaugeport.charts import fold_gains
from gaugeport.models.dyck import IGNORED, DyckConfig, DyckModel, by_head
from gaugeport.pipeline.rotation.toy import components as c

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 20}


def generic(seed=0, folded=False, scale=0.3, **sizes):
    """Weights of standard deviation ``scale``, gains about 1, in place or folded."""
    model, noise = DyckModel(DyckConfig(**SIZES | sizes)).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            drawn = torch.randn(p.shape, generator=noise)
            p.copy_(scale * drawn if p.dim() > 1 else 1 + 0.3 * drawn)
    return fold_gains(model) if folded else model


def silence(model, *names):
    """Nothing that these components would write arrives."""
    with torch.no_grad():
        for name in names:
            layer = model.model.layers[c.layer_of(name)]
            if c.is_mlp(name):
                layer.mlp.down_proj.weight.zero_()
            else:
                layer.self_attn.o_proj.weight.chunk(2, 1)[int(name[-1])].zero_()
    return model


def sure_of_itself(model, rows):
    """Return rows labelled with the model's own confident answers, so that every effective cut costs loss."""
    with torch.no_grad():
        for head in (model.lm_head, model.depth_head, model.valid_head):
            head.weight.mul_(50)
        answers = torch.stack(
            [z.argmax(-1) for z in by_head(c.run_graph(model, rows["input_ids"]).logits)], -1
        )
    return {**rows, "labels": answers.masked_fill(rows["labels"] == IGNORED, IGNORED)}


def head_rows(model, name, projection):
    """The head's rows of q_proj, k_proj or v_proj."""
    return getattr(model.model.layers[c.layer_of(name)].self_attn, projection).weight.data.chunk(2)[
        int(name[-1])
    ]


def value(rows, component, metric, text="value", **where):
    """What the one row of a component, a metric and further columns says."""
    (found,) = [
        r
        for r in rows
        if r["component"] == component
        and r["metric"] == metric
        and all(r.get(k) == v for k, v in where.items())
    ]
    return found[text]
