"""What transport writes, loaded by plain transformers and peft, is the same function (DESIGN §1's ladder)."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from gaugeport.charts import chart_of, fold_gains
from gaugeport.charts.logit_change import logits_of, random_tokens, relative_change, yardstick_for
from gaugeport.groups import GROUPS, GlobalSignPermutation, Orthogonal, SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES
from gaugeport.transport import transport_checkpoint, transport_lora
from saved_folders import D, saved, tiny

pytestmark = pytest.mark.filterwarnings("ignore")


def generator():
    return torch.Generator().manual_seed(1)


def signs_only(chart):
    if chart.norm == "layer":
        return GlobalSignPermutation(torch.arange(D), -1)
    return SignedPermutation(torch.arange(D), SignedPermutation.random(D, generator()).sign)


def loaded(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def yardstick(model, g, tokens):
    rotation = g if isinstance(g, Orthogonal) else None
    return yardstick_for(chart_of(model), model, copy.deepcopy(model), tokens, generator(), rotation)


LAYOUTS = [(family, *pair) for family in MODEL_TYPES for pair in (("single", "tied"), ("shards", "untied"))]
MORE = [("single", "untied"), ("shards", "tied")]
LAYOUTS += [(family, *pair) for family in ("llama", "gpt2") for pair in MORE]


@pytest.mark.parametrize(("family", "files", "ties"), LAYOUTS)
def test_logits_are_the_originals(family, files, ties, tmp_path):
    tied = ties == "tied"
    model = tiny(family, tie_word_embeddings=tied)
    source = saved(model, tmp_path / "a", max_shard_size="1GB" if files == "single" else "10KB")
    assert (len(list(source.glob("*.safetensors"))) == 1) == (files == "single")
    chart, tokens = chart_of(model), random_tokens(model, generator())
    before = logits_of(loaded(source), tokens)
    flips, g = signs_only(chart), GROUPS[chart.group].random(D, generator())
    for name, element in (("flipped", flips), ("moved", g)):
        transport_checkpoint(source, element, tmp_path / name)
    assert torch.equal(logits_of(loaded(tmp_path / "flipped"), tokens), before)
    moved = loaded(tmp_path / "moved")
    assert relative_change(before, logits_of(moved, tokens)) <= yardstick(model, g, tokens)
    assert not torch.equal(moved.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert (moved.get_output_embeddings().weight is moved.get_input_embeddings().weight) == tied
    # control: one tensor of the original
    with torch.no_grad():
        moved.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight)
    assert relative_change(before, logits_of(moved, tokens)) > 1e-1


@pytest.mark.parametrize("family", [t for t in MODEL_TYPES if chart_of(tiny(t)).foldable])
def test_logits_of_a_rotated_folded_model_are_the_originals(family, tmp_path):
    model = fold_gains(tiny(family))
    tokens, g = random_tokens(model, generator()), GROUPS[chart_of(model).group].random(D, generator())
    transport_checkpoint(saved(model, tmp_path / "a", max_shard_size="10KB"), g, tmp_path / "b")
    before, after = logits_of(loaded(tmp_path / "a"), tokens), logits_of(loaded(tmp_path / "b"), tokens)
    assert relative_change(before, after) <= yardstick(model, g, tokens)


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("qwen2", True), ("gpt2", True)])
def test_adapter_trained_on_a_changes_the_logits_of_b_as_those_of_a(family, tied, tmp_path):
    model = tiny(family, tie_word_embeddings=tied)
    source, tokens = saved(model, tmp_path / "a"), random_tokens(model, generator())
    chart = chart_of(model)
    modules = [n.removesuffix(".weight") for role in ("read", "write") for n in chart.names(role)]
    adapted = get_peft_model(loaded(source), LoraConfig(r=4, target_modules=modules, lora_dropout=0.0))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.05)
    for _ in range(10):
        adapted(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.save_pretrained(tmp_path / "adapter")

    def change(base, adapter):
        before = logits_of(loaded(base), tokens)
        with_adapter = PeftModel.from_pretrained(loaded(base), adapter).eval()
        return logits_of(with_adapter, tokens) - before

    on_a = change(source, tmp_path / "adapter")
    assert float(on_a.std()) > 0.1 * float(logits_of(model, tokens).std())
    g = GROUPS[chart.group].random(D, generator())
    for name, element in (("flipped", signs_only(chart)), ("moved", g)):
        transport_checkpoint(source, element, tmp_path / name)
        transport_lora(tmp_path / "adapter", element, chart, out=tmp_path / f"{name}-adapter")
    assert torch.equal(change(tmp_path / "flipped", tmp_path / "flipped-adapter"), on_a)
    on_b = change(tmp_path / "moved", tmp_path / "moved-adapter")
    # the change is a difference of two models' logits, each of which is rounded
    models = model, adapted.merge_and_unload()
    room = sum(yardstick(m, g, tokens) * float(logits_of(m, tokens).std()) for m in models)
    assert float((on_a - on_b).abs().max()) <= room < 1e-2 * float(on_a.std())
    assert relative_change(on_a, change(tmp_path / "moved", tmp_path / "adapter")) > 1e-1
