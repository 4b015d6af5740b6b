"""Make small Dyck-3 models with random weights and gains, and plant things in them."""

import torch

from gaugeport.charts import fold_gains
from gaugeport.models.dyck import IGNORED, DyckConfig, DyckModel, by_head
from gaugeport.pipeline.rotation.toy import components as c

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 20}


def generic(seed=0, folded=False, scale=0.3, **sizes):
    """Return a model with weights of standard deviation ``scale`` and gains about 1, in place or folded."""
    model, noise = DyckModel(DyckConfig(**SIZES | sizes)).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            drawn = torch.randn(p.shape, generator=noise)
            p.copy_(scale * drawn if p.dim() > 1 else 1 + 0.3 * drawn)
    return fold_gains(model) if folded else model


def folded_float64(seed=0):
    """Return a folded model in float64, the form that the lenses read."""
    return generic(seed, folded=True, scale=0.4).double()


def silence(model, *components):
    """Set the output weights of some components to zero, so that they write nothing."""
    with torch.no_grad():
        for component in components:
            layer = model.model.layers[c.layer_of(component)]
            if c.is_mlp(component):
                layer.mlp.down_proj.weight.zero_()
            else:
                layer.self_attn.o_proj.weight.chunk(2, 1)[int(component[-1])].zero_()
    return model


def label_with_own_answers(model, rows):
    """Make a model near certain and its answers the labels, so that every cut with an effect costs loss."""
    with torch.no_grad():
        for head in (model.lm_head, model.depth_head, model.valid_head):
            head.weight.mul_(50)
        logits = by_head(c.run_graph(model, rows["input_ids"]).logits)
        answers = torch.stack([z.argmax(-1) for z in logits], -1)
    return {**rows, "labels": answers.masked_fill(rows["labels"] == IGNORED, IGNORED)}


def head_rows(model, head, projection):
    """Return the head's rows of q_proj, k_proj or v_proj, to be changed in place."""
    weight = getattr(model.model.layers[c.layer_of(head)].self_attn, projection).weight
    return weight.data.chunk(2)[int(head[-1])]


def value(rows, component, metric, column="value", **where):
    """Return a column of the only row of a component and a metric, with further columns as in ``where``."""
    matching = [r for r in rows if r["component"] == component and r["metric"] == metric]
    (match,) = [r for r in matching if all(r.get(name) == v for name, v in where.items())]
    return match[column]
