"""Test that Trainer resumes a moved checkpoint of its own and follows the reference run."""

import copy
import json
import shutil

import pytest
import torch
from transformers import Trainer, TrainingArguments, default_data_collator
from transformers.trainer_callback import PrinterCallback

from gaugeport.charts import chart_of
from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.models.loading import load_model
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model
from gaugeport.pipeline.training.trainer import Rows
from gaugeport.transport import optimizer_checkpoint, transport_model
from gaugeport.transport.optimizer import transport_optimizer
from gaugeport.transport.optimizer_checkpoint import trainer_names

D, STEPS, SAVED_STEP = 32, 8, 3


def fit(model, folder, resume=None, **options):
    """Train eight steps with Trainer (weight decay, schedule, clipping), with a checkpoint after three."""
    rows = torch.randint(0, 64, (STEPS * 4, 16), generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        trainer = Trainer(
            model=model,
            args=arguments(folder, **options),
            train_dataset=Rows(rows),
            data_collator=default_data_collator,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer.model


def arguments(folder, **options):
    fixed = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        save_steps=SAVED_STEP,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        weight_decay=0.1,
        max_grad_norm=0.5,
        lr_scheduler_type="cosine",
        seed=0,
        **fixed,
        **options,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train a reference run; return its checkpoint after three steps and its final model."""
    folder = tmp_path_factory.mktemp("run")
    final = fit(tiny_model("llama", torch.Generator().manual_seed(0)), folder)
    (folder / f"checkpoint-{SAVED_STEP}" / "tokenizer.json").write_text('{"version": "1.0"}\n')
    return folder / f"checkpoint-{SAVED_STEP}", final


def signs(generator):
    return SignedPermutation(torch.arange(D), SignedPermutation.random(D, generator).sign)


def distance(a, b):
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return float(sum((p.detach().double() - q.detach().double()).pow(2).sum() for p, q in pairs).sqrt())


def copied(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "source")
    return tmp_path / "source"


def test_trainer_resumes_a_moved_checkpoint_and_follows_the_reference(run, tmp_path):
    source, final = run
    g = signs(torch.Generator().manual_seed(2))
    transport_optimizer(source, g, out=tmp_path / "moved")
    start = tiny_model("llama", torch.Generator().manual_seed(9))  # Trainer has to load the folder's weights
    resumed = transport_model(fit(start, tmp_path / "run", tmp_path / "moved"), g.inverse())
    assert all(torch.equal(p, q) for p, q in zip(resumed.parameters(), final.parameters(), strict=True))


def test_a_state_without_signs_drifts_from_the_reference(run, tmp_path):
    """Control: the weights are moved, but the state is only permuted."""
    source, final = run
    g = signs(torch.Generator().manual_seed(2))
    transport_optimizer(source, g, out=tmp_path / "moved")
    torch.save(transport_optimizer(source, g.without_signs()), tmp_path / "moved" / "optimizer.pt")
    start = tiny_model("llama", torch.Generator().manual_seed(9))
    resumed = transport_model(fit(start, tmp_path / "run", tmp_path / "moved"), g.inverse())
    assert distance(resumed, final) / distance(final, load_model(source)) > 1e-1


def test_weights_in_several_files_stay_in_as_many(run, tmp_path):
    """Sharded *weights* are an ordinary Hugging Face folder; each shard is moved."""
    source = copied(run, tmp_path)
    model = load_model(source)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="20KB")
    assert len(list(source.glob("model-*.safetensors"))) > 1
    g = SignedPermutation.random(D, torch.Generator().manual_seed(4))
    transport_optimizer(source, g, out=tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").glob("model*")} == {p.name for p in source.glob("model*")}
    assert distance(load_model(tmp_path / "out"), transport_model(model, g)) == 0.0


def test_weights_that_are_no_safetensors_are_loaded_and_written_as_one(run, tmp_path):
    source = copied(run, tmp_path)
    model = load_model(source)
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    g = SignedPermutation.random(D, torch.Generator().manual_seed(4))
    transport_optimizer(source, g, out=tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").glob("*model*")} == {"model.safetensors"}
    assert distance(load_model(tmp_path / "out"), transport_model(model, g)) == 0.0


def test_safetensors_weights_are_not_loaded(run, tmp_path, monkeypatch):
    source, seen = run[0], []
    monkeypatch.setattr(optimizer_checkpoint, "load_model", None)
    g = SignedPermutation.random(D, torch.Generator().manual_seed(4))
    transport_optimizer(source, g, out=tmp_path / "out", progress=lambda *step: seen.append(step))
    assert [step for step in seen if step[2] == "optimizer state"][-1] == (21, 21, "optimizer state")
    done, total, _ = [step for step in seen if step[2] == "weights"][-1]
    assert done == total > 0.9 * (source / "model.safetensors").stat().st_size - 4096


def test_all_other_files_of_the_folder_are_copied(run, tmp_path):
    source, _ = run
    g = SignedPermutation.random(D, torch.Generator().manual_seed(4))
    state = transport_optimizer(source, g, out=tmp_path / "moved")
    names = {p.name for p in source.iterdir()}
    assert {p.name for p in (tmp_path / "moved").iterdir()} == names
    assert {"tokenizer.json", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json"} <= names
    for name in names - {"optimizer.pt", "model.safetensors"}:
        assert (source / name).read_bytes() == (tmp_path / "moved" / name).read_bytes(), name
    expected = transport_model(load_model(source), g)
    for p, q in zip(load_model(tmp_path / "moved").parameters(), expected.parameters(), strict=True):
        assert torch.equal(p, q)
    written = torch.load(tmp_path / "moved" / "optimizer.pt", weights_only=True)
    assert written["param_groups"] == state["param_groups"]
    assert [len(group["params"]) for group in written["param_groups"]] == [16, 5]
    assert [p.name for p in tmp_path.iterdir()] == ["moved"]  # no temporary folder is left


def test_round_trips_return_the_checkpoint(run, tmp_path):
    source, _ = run
    g = SignedPermutation.random(D, torch.Generator().manual_seed(5))
    transport_optimizer(source, g, out=tmp_path / "there")
    back = transport_optimizer(tmp_path / "there", g.inverse(), out=tmp_path / "back")
    original = torch.load(source / "optimizer.pt", weights_only=True)
    for index, entries in original["state"].items():
        assert all(torch.equal(entries[k], back["state"][index][k]) for k in entries)
    assert distance(load_model(tmp_path / "back"), load_model(source)) == 0.0


def test_states_belong_to_the_parameters_of_trainers_own_optimizer(run):
    """The expected states are found through Trainer's own optimizer, not through the order of names."""
    source, _ = run
    g = SignedPermutation.random(D, torch.Generator().manual_seed(6))
    model, moved = load_model(source), transport_optimizer(source, g)
    trainer = Trainer(model=model, args=arguments(source.parent / "unused", save_strategy="no"))
    optimizer = trainer.create_optimizer()
    optimizer.load_state_dict(torch.load(source / "optimizer.pt", weights_only=True))
    before = {n: optimizer.state[p] for n, p in model.named_parameters()}
    optimizer.load_state_dict(moved)
    for name, p in model.named_parameters():
        for key, signed in (("exp_avg", True), ("exp_avg_sq", False)):
            expected = before[name][key]
            for axis, kind in enumerate(chart_of(model).axes(name)):
                if kind != "none":
                    expected = (g.act if signed and kind == "vector" else g.act_gain)(expected, axis)
            assert torch.equal(optimizer.state[p][key], expected), (name, key)


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_trainer_names_are_in_trainers_order(family, tmp_path):
    model = tiny_model(family, torch.Generator().manual_seed(0))
    model.get_input_embeddings().weight.requires_grad_(False)
    optimizer = Trainer(model=model, args=arguments(tmp_path)).create_optimizer()
    by_tensor = {id(p): n for n, p in model.named_parameters()}
    assert len(optimizer.param_groups) == 2
    assert trainer_names(model) == [
        by_tensor[id(p)] for group in optimizer.param_groups for p in group["params"]
    ]


def test_a_state_with_one_group_is_in_the_models_order(run, tmp_path):
    source = copied(run, tmp_path)
    model = load_model(source)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, 5]])).loss.backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), source / "optimizer.pt")
    g = SignedPermutation.random(D, torch.Generator().manual_seed(4))
    moved, expected = transport_optimizer(source, g), transport_optimizer(optimizer.state_dict(), g, model)
    for index, entries in expected["state"].items():
        assert all(torch.equal(entries[k], moved["state"][index][k]) for k in entries)


def test_the_given_model_says_what_was_frozen(tmp_path):
    """The folder does not say what was frozen. With frozen gains, SGD allows rotations."""
    model = tiny_model("llama", torch.Generator().manual_seed(0))
    gains = chart_of(model).names("gain")
    with torch.no_grad():
        for name in gains:
            model.get_parameter(name).fill_(1.0).requires_grad_(False)
    fit(model, tmp_path / "run", optim="sgd", optim_args="momentum=0.9")
    source, frozen = tmp_path / "run" / f"checkpoint-{SAVED_STEP}", copy.deepcopy(model)
    g = Orthogonal.random(D, torch.Generator().manual_seed(7))
    with pytest.raises(ValueError, match=r"expected 21 parameters .*holds 16: .*Pass model= .*frozen"):
        transport_optimizer(source, g, out=tmp_path / "moved")
    assert not (tmp_path / "moved").exists()
    moved = transport_optimizer(source, g, frozen, out=tmp_path / "moved")
    before = torch.load(source / "optimizer.pt", weights_only=True)
    index = trainer_names(frozen).index("model.layers.1.mlp.down_proj.weight")
    expected = g.act(before["state"][index]["momentum_buffer"], 0)
    assert torch.equal(moved["state"][index]["momentum_buffer"], expected)


# errors write nothing


def refused(source, tmp_path, error, match, **options):
    """Check that the move raises an error and leaves no file."""
    g = SignedPermutation.random(D, torch.Generator().manual_seed(8))
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(error, match=match):
        transport_optimizer(source, g, out=tmp_path / "out", **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_existing_folder_is_never_overwritten(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("1")
    refused(run[0], tmp_path, FileExistsError, "exists already")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["old"]


@pytest.mark.parametrize("shard", ["pytorch_model_fsdp_0", "optimizer_0", "global_step3"])
def test_sharded_states_are_refused(run, tmp_path, shard):
    source = copied(run, tmp_path)
    (source / "optimizer.pt").unlink()
    (source / shard).mkdir()
    refused(source, tmp_path, ValueError, f"sharded or flattened \\({shard}\\), as FSDP or DeepSpeed")


def test_missing_and_damaged_files_are_refused(run, tmp_path):
    refused(tmp_path / "nowhere", tmp_path, FileNotFoundError, "no checkpoint folder at .*nowhere")
    source = copied(run, tmp_path)
    state = (source / "optimizer.pt").read_bytes()
    (source / "optimizer.pt").write_bytes(state[: len(state) // 2])
    refused(source, tmp_path, ValueError, "cannot be read as plain tensors")
    class_as_state = {"state": {0: {"exp_avg": Rows}}, "param_groups": []}  # a class is code, not data
    torch.save(class_as_state, source / "optimizer.pt")
    refused(source, tmp_path, ValueError, "cannot be read as plain tensors")
    (source / "optimizer.pt").unlink()
    refused(source, tmp_path, FileNotFoundError, r"no optimizer.pt in .*config.json")
    (source / "optimizer.pt").write_bytes(state)
    (source / "model.safetensors").unlink()
    refused(source, tmp_path, FileNotFoundError, "no weights")


def test_checkpoints_with_adapters_16_bits_or_dropout_are_refused(run, tmp_path):
    source = copied(run, tmp_path)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    refused(source, tmp_path, ValueError, "dropout is on .*attention_dropout=0.1")
    (source / "config.json").write_text(json.dumps(config))
    load_model(source).to(torch.bfloat16).save_pretrained(source)
    refused(
        source,
        tmp_path,
        ValueError,
        r"16-bit parameters or states: model.embed_tokens.weight \(torch.bfloat16\)",
    )
    (source / "adapter_config.json").write_text("{}")
    refused(source, tmp_path, ValueError, "checkpoint of an adapter .* transport_lora")


def test_a_failed_write_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    refused(run[0], tmp_path, OSError, "disk full")
