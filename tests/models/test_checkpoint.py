"""Check that a folder's chart and tensors are those of its loaded model, whatever their names."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from dyck_models import generic
from gaugeport.charts import chart_of, fold_gains
from gaugeport.models.checkpoint import chart_of_folder, open_checkpoint
from gaugeport.models.loading import load_model
from gaugeport.models.stored_tensors import read_rows, read_tensor
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model, with_unit_gains


def tiny(family, **config):
    return tiny_model(family, torch.Generator().manual_seed(0), **config)


def saved(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    save_file({k: v.clone() for k, v in change(load_file(path)).items()}, path, metadata={"format": "pt"})


def check_is_the_loaded_model(folder):
    checkpoint, model = open_checkpoint(folder), load_model(folder)
    assert checkpoint.chart == chart_of(model) == chart_of_folder(folder)
    buffers = {name: b for name, b in model.named_buffers() if name in model.state_dict()}
    parameters, stored = dict(model.named_parameters()) | buffers, checkpoint.parameters
    assert stored.keys() == parameters.keys()
    for name, p in parameters.items():
        assert torch.equal(read_tensor(stored[name]), p), name
        assert checkpoint.axes(stored[name]) == checkpoint.chart.axes(name)
    return checkpoint


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", MODEL_TYPES)
def test_chart_and_tensors_are_those_of_the_loaded_model(family, tied, tmp_path):
    chart = check_is_the_loaded_model(saved(tiny(family, tie_word_embeddings=tied), tmp_path)).chart
    assert chart.tied == tied and not chart.folded


def test_dyck_models_have_charts_without_weights_too(tmp_path):
    check_is_the_loaded_model(saved(generic(), tmp_path))


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2"])
def test_folded_is_read_from_the_gains_in_the_shards(family, tmp_path):
    folded = fold_gains(tiny(family)).bfloat16()
    folder = saved(folded, tmp_path / "folded", max_shard_size="10KB")
    assert len(open_checkpoint(folder).headers) > 2
    assert check_is_the_loaded_model(folder).chart.folded
    with torch.no_grad():
        folded.get_parameter(chart_of(folded).names("gain")[1])[3] = 1.0 + 2**-7
    assert not chart_of_folder(saved(folded, tmp_path / "one off")).folded


def test_unit_gains_of_gemma_are_zeros(tmp_path):
    assert check_is_the_loaded_model(saved(with_unit_gains(tiny("gemma2")), tmp_path)).chart.folded


def test_names_of_older_releases_are_mapped(tmp_path):
    model = tiny("gpt_neox")
    folder = saved(model, tmp_path)
    assert "embed_out.weight" in load_file(folder / "model.safetensors")
    mask = {f"gpt_neox.layers.{k}.attention.bias": torch.ones(1, 1, 8, 8).bool() for k in (0, 1)}
    rotary = {
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(32)
    }  # as long as the stream is wide
    change_tensors(folder, lambda tensors: tensors | mask | rotary)
    checkpoint = check_is_the_loaded_model(folder)
    assert checkpoint.names["embed_out.weight"] == "lm_head.weight"
    assert set(checkpoint.old_buffers) == mask.keys() | rotary.keys()
    tensors = checkpoint.headers[0].tensors
    assert all(set(checkpoint.axes(tensors[name])) == {"none"} for name in checkpoint.old_buffers)


@pytest.mark.parametrize(("family", "prefix"), [("gpt2", "transformer."), ("llama", "model.")])
def test_checkpoints_without_the_prefix_of_the_base_model(family, prefix, tmp_path):
    folder = saved(tiny(family, tie_word_embeddings=True), tmp_path)
    change_tensors(folder, lambda tensors: {k.removeprefix(prefix): v for k, v in tensors.items()})
    assert not any(name.startswith(prefix) for name in load_file(folder / "model.safetensors"))
    check_is_the_loaded_model(folder)


EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def test_a_tied_tensor_may_stand_under_either_name_or_both(tmp_path):
    folder = saved(tiny("qwen2", tie_word_embeddings=True), tmp_path)
    change_tensors(folder, lambda tensors: tensors | {HEAD: tensors[EMBED]})
    checkpoint = check_is_the_loaded_model(folder)
    assert checkpoint.chart.tied and checkpoint.names[HEAD] == checkpoint.names[EMBED] == EMBED
    change_tensors(folder, lambda tensors: {k: v for k, v in tensors.items() if k != EMBED})
    assert check_is_the_loaded_model(folder).chart.tied
    change_tensors(folder, lambda tensors: tensors | {EMBED: tensors[HEAD] + 1})
    assert not check_is_the_loaded_model(folder).chart.tied


def test_some_rows_of_a_tensor_are_read(tmp_path):
    folder = saved(tiny("llama").half(), tmp_path)
    tensor = open_checkpoint(folder).parameters[EMBED]
    assert torch.equal(read_rows(tensor, 5, 9), load_file(folder / "model.safetensors")[EMBED][5:9])
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"has become shorter: {EMBED} is not whole"):
        read_rows(tensor, 5, 9)


def test_the_language_model_of_a_multimodal_checkpoint_is_opened(multimodal):
    with pytest.warns(UserWarning, match="multimodal"):
        checkpoint = check_is_the_loaded_model(multimodal[1])
    assert checkpoint.chart.model_type == "gemma3_text"
    assert "multi_modal_projector.mm_input_projection_weight" in checkpoint.other_parts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"model.extra.weight": torch.zeros(2)}, r"does not know.*model\.extra\.weight"),
        (lambda t: {k: v for k, v in t.items() if k != HEAD}, r"missing parameters lm_head\.weight"),
        (
            lambda t: t | {HEAD: t[HEAD][:5]},
            r"another shape for lm_head\.weight \(5, 32\), expected \(64,",
        ),
        (lambda t: t | {"layers.0.input_layernorm.weight": t[EMBED][0]}, "two tensors for one parameter"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, change, message):
    folder = saved(tiny("llama"), tmp_path)
    change_tensors(folder, change)
    with pytest.raises(ValueError, match=rf"{folder}.*{message}"):
        open_checkpoint(folder)


def test_tensors_that_transformers_merges_are_refused(tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    folder = saved(MixtralForCausalLM(config), tmp_path)
    with pytest.raises(ValueError, match=r"merges or splits tensors of .*experts.*save_pretrained"):
        open_checkpoint(folder)


def test_other_weights_and_places_are_refused(tmp_path):
    model = tiny("llama")
    torch.save(model.state_dict(), saved(model, tmp_path) / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"keeps its weights in pytorch_model\.bin.*save_pretrained"):
        open_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"local folder, got 'owner/name'; .*snapshot_download"):
        open_checkpoint("owner/name")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_checkpoint(tmp_path / "nowhere")
