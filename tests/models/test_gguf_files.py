"""A GGUF file is the model it was written from, and is saved as an ordinary Hugging Face folder."""

import pytest
import torch

from gaugeport.models.gguf_files import convert_gguf, describe_gguf
from gaugeport.models.loading import load_model, load_tokenizer
from tiny_gguf import CHAT, tiny_llama, write_gguf

TEXT = "In the end, the 12 cats\n sat: naïve"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_gguf(tiny_llama(), tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf")


def logits(model):
    ids = torch.arange(40).reshape(2, 20) + 3
    with torch.no_grad():
        return model(ids).logits


def test_float32_file_gives_the_same_logits(gguf):
    assert torch.equal(logits(load_model(gguf)), logits(tiny_llama()))


def test_float16_file_gives_logits_of_rounded_weights(tmp_path):
    rounded = tiny_llama()
    with torch.no_grad():
        for p in rounded.parameters():
            p.copy_(p.half().float() if p.ndim == 2 else p)
    read = load_model(write_gguf(tiny_llama(), tmp_path / "half.gguf", half=True))
    assert torch.equal(logits(read), logits(rounded))
    assert not torch.equal(logits(read), logits(tiny_llama()))


def test_converted_folder_loads_like_any_other(gguf, tmp_path):
    convert_gguf(gguf, tmp_path)
    model, tokenizer = load_model(tmp_path), load_tokenizer(tmp_path)
    assert torch.equal(logits(model), logits(tiny_llama()))
    assert model.dtype == torch.float32 and model.config.tie_word_embeddings
    assert getattr(model.config, "quantization_config", None) is None
    assert model.config.rope_parameters["rope_theta"] == 5e4
    # saved again, as every stage after this one does
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load_model(tmp_path / "again")), logits(model))
    # the tokenizer and its chat template
    ids = tokenizer(TEXT).input_ids
    assert tokenizer.decode(ids) == TEXT and ids == load_tokenizer(gguf)(TEXT).input_ids
    assert "Ġthe" in tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.chat_template == CHAT
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)


def test_dtype_is_that_asked_for(gguf):
    assert load_model(gguf, dtype="bfloat16").model.norm.weight.dtype == torch.bfloat16


def test_description_names_licence_and_quantisation(gguf, tmp_path):
    assert describe_gguf(gguf) == {"licence": "cc0-1.0", "quantisation": "F32"}
    half = write_gguf(tiny_llama(), tmp_path / "half.gguf", half=True)
    assert describe_gguf(half)["quantisation"] == "F16"


@pytest.mark.parametrize("kept", [0, 100, -4000])
def test_truncated_file_raises(gguf, tmp_path, kept):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(gguf.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"damaged\.gguf"):
        load_model(damaged)


def test_missing_file_raises(tmp_path):
    for load in (load_model, load_tokenizer):
        with pytest.raises(FileNotFoundError, match=r"does not exist: .*none\.gguf"):
            load(tmp_path / "none.gguf")


def test_file_without_a_tensor_raises(tmp_path):
    model = tiny_llama()
    del model.model.layers[1].mlp.up_proj
    with pytest.raises(ValueError, match=r"missing parameters .*layers\.1\.mlp\.up_proj\.weight"):
        load_model(write_gguf(model, tmp_path / "less.gguf"))
