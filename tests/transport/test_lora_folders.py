"""Test adapter folders that hold more, less or something newer than this package expects."""

import json
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from gaugeport.charts import certify, chart_of
from gaugeport.transport import transport_model
from gaugeport.transport.lora import fold_lora, transport_lora
from gaugeport.transport.lora_rules import KNOWN_OPTIONS
from lora_adapters import adapt, attach, signed, tiny


@pytest.fixture
def saved(tmp_path):
    """A model, a gauge, and the folder of an adapter, with its tensors."""
    model = tiny("llama")
    adapted, _, _ = adapt(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(tmp_path / "a")
    return model, signed(model), tmp_path / "a", load_file(tmp_path / "a" / "adapter_model.safetensors")


def change_config(folder, **options):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))


def snapshot(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_every_option_of_the_installed_peft_is_known():
    assert set(peft.LoraConfig().to_dict()) <= KNOWN_OPTIONS


def test_options_of_a_newer_peft_that_are_off_are_kept(saved, tmp_path):
    model, g, folder, tensors = saved
    newer = {"use_spiral": False, "spiral_config": None, "spiral_modules": [], "spiral_size": 16}
    change_config(folder, **newer)
    moved = transport_lora(folder, g, model, tmp_path / "b")
    written = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert newer.items() <= written.items() and moved.keys() == tensors.keys()


@pytest.mark.parametrize("value", [True, {"r": 2}, ["q_proj"], "spiral"])
def test_options_of_a_newer_peft_that_are_set_are_refused(saved, tmp_path, value):
    model, g, folder, _ = saved
    change_config(folder, spiral=value)
    for move in (
        lambda: transport_lora(folder, g, model, tmp_path / "b"),
        lambda: fold_lora(folder, model, tmp_path / "b"),
    ):
        with pytest.raises(ValueError, match=r"adapter_config.json: the config sets options .* spiral="):
            move()
    assert not (tmp_path / "b").exists()


def test_bin_files_are_read_and_written_as_safetensors(saved, tmp_path):
    model, g, folder, tensors = saved
    expected = transport_lora(folder, g, model)
    torch.save(tensors, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    before = snapshot(folder)
    transport_lora(folder, g, model, tmp_path / "b")
    written = load_file(tmp_path / "b" / "adapter_model.safetensors")
    assert all(torch.equal(written[k], expected[k]) for k in expected) and written.keys() == expected.keys()
    assert {p.name for p in (tmp_path / "b").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    assert snapshot(folder) == before
    # as in peft, the newer file counts if there are both
    save_file(tensors, folder / "adapter_model.safetensors")
    torch.save({k: torch.zeros_like(t) for k, t in tensors.items()}, folder / "adapter_model.bin")
    again = transport_lora(folder, g, model)
    assert all(torch.equal(again[k], expected[k]) for k in expected)


def test_objects_and_other_things_in_a_bin_file_are_refused(saved):
    model, g, folder, _ = saved
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"a": peft.LoraConfig}, folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model.bin cannot be read as plain tensors"):
        transport_lora(folder, g, model)
    for content, message in (
        ([1, 2], "expected a dict of tensors by name, got a list"),
        ({"a": 1}, "expected plain tensors by name, but a is a int"),
        ({1: torch.zeros(2)}, "expected tensors by name, but one is named 1"),
        (
            {"a": torch.zeros(2, device="meta")},
            "expected plain tensors by name, but a is a torch.strided tensor on meta",
        ),
    ):
        torch.save(content, folder / "adapter_model.bin")
        with pytest.raises(ValueError, match=rf"adapter_model.bin: {message}"):
            transport_lora(folder, g, model)


def test_a_trainers_leftovers_are_left_out_with_a_warning_and_the_rest_is_copied(saved, tmp_path):
    model, g, folder, _ = saved
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin"):
        torch.save({"state": {}}, folder / name)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "checkpoint-10").mkdir()
    (tmp_path / "secret.txt").write_text("a secret")
    (folder / "notes.txt").symlink_to(tmp_path / "secret.txt")
    left = "checkpoint-10, notes.txt, optimizer.pt, scheduler.pt, training_args.bin"
    with pytest.warns(UserWarning, match=rf"left out of what is moved from .*a: {left} \(tensors in the old"):
        transport_lora(folder, g, model, tmp_path / "b")
    names = {p.name for p in (tmp_path / "b").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"}
    assert (tmp_path / "b" / "README.md").read_bytes() == (folder / "README.md").read_bytes()


def test_links_into_the_hubs_cache_are_followed(saved, tmp_path):
    model, g, folder, _ = saved
    blobs, snapshot_folder = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot_folder.mkdir(parents=True)
    for item in folder.iterdir():
        item.rename(blobs / item.name)
        (snapshot_folder / item.name).symlink_to(blobs / item.name)
    transport_lora(snapshot_folder, g, model, tmp_path / "b")
    assert {p.name for p in (tmp_path / "b").iterdir()} == {p.name for p in blobs.iterdir()}
    assert not any(p.is_symlink() for p in (tmp_path / "b").iterdir())


def test_nothing_is_overwritten_without_force_and_never_the_source(saved, tmp_path):
    model, g, folder, _ = saved
    before = snapshot(folder)
    transport_lora(folder, g, model, tmp_path / "b")
    first = snapshot(tmp_path / "b")
    with pytest.raises(FileExistsError, match=r"b exists already.*force=True"):
        transport_lora(folder, g.inverse(), model, tmp_path / "b")
    assert snapshot(tmp_path / "b") == first
    transport_lora(folder, g.inverse(), model, tmp_path / "b", force=True)
    assert snapshot(tmp_path / "b") != first
    for out in (folder, folder / "b", tmp_path):
        for move in (
            lambda out=out: transport_lora(folder, g, model, out, force=True),
            lambda out=out: fold_lora(folder, model, out, force=True),
        ):
            with pytest.raises(ValueError, match="expected a place apart from it"):
                move()
    assert snapshot(folder) == before and {p.name for p in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(target_modules=["q_proj"]),
        peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    ],
    ids=["lora", "ia3"],
)
def test_models_that_carry_adapters_are_refused_in_one_sentence(config):
    wrapped = peft.get_peft_model(tiny("llama"), config)
    g = signed(tiny("llama"))
    for model in (wrapped, wrapped.base_model.model):
        for use in (lambda m: transport_model(m, g), certify, chart_of):
            with pytest.raises(ValueError, match=r"pass model.merge_and_unload\(\)") as caught:
                use(model)
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    chart_of(wrapped.merge_and_unload())


@pytest.mark.filterwarnings("ignore")
def test_adapters_that_transformers_attached_are_refused_too():
    model = tiny("llama")
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"carries adapters of peft.*merge_and_unload"):
        chart_of(model)
    chart_of(attach(tiny("llama"), {"target_modules": ["q_proj"]}).unload())
