"""Test that accelerate resumes a moved ``save_state`` folder of its own and follows the reference run."""

import copy
import shutil

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gaugeport.groups import SignedPermutation
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import transport_model
from gaugeport.transport.optimizer import transport_optimizer

D = 32
GENERATOR = torch.Generator().manual_seed(2)
SIGNS = SignedPermutation(torch.arange(D), SignedPermutation.random(D, GENERATOR).sign)
G = SignedPermutation.random(D, GENERATOR)


def batch(i):
    return torch.randint(0, 64, (2, 8), generator=torch.Generator().manual_seed(i))


def run(model, first, last, resume=None, save=None, safe=True):
    """Train with accelerate from step ``first`` to ``last``, from a state or to one; return the model."""
    with torch.random.fork_rng():
        accelerator = Accelerator(cpu=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=9)
        model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
        if resume is not None:
            accelerator.load_state(str(resume))
        for i in range(first, last):
            optimizer.zero_grad()
            accelerator.backward(model(batch(i), labels=batch(i)).loss)
            optimizer.step()
            scheduler.step()
        if save is not None:
            accelerator.save_state(str(save), safe_serialization=safe)
        return accelerator.unwrap_model(model)


@pytest.fixture(autouse=True)
def accelerates_state_is_left_as_it_was():
    before = [copy.copy(s._shared_state) for s in (AcceleratorState, GradientState)]
    yield
    for singleton, state in zip((AcceleratorState, GradientState), before, strict=True):
        singleton._shared_state.clear()
        singleton._shared_state.update(state)


def fresh(seed=0, **config):
    return tiny_model("llama", torch.Generator().manual_seed(seed), D, **config)


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_accelerate_resumes_a_moved_folder_and_follows_the_reference(safe, tied, tmp_path):
    config = {"tie_word_embeddings": tied}
    model = run(fresh(**config), 0, 2, save=tmp_path / "a", safe=safe)
    reference = run(copy.deepcopy(model), 2, 5, resume=tmp_path / "a")
    untrained = fresh(7, **config)  # says the architecture only
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    transport_optimizer(tmp_path / "a", SIGNS, untrained, out=tmp_path / "b")
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == before
    assert {p.name for p in (tmp_path / "b").iterdir()} == set(before)
    resumed = run(fresh(9, **config), 2, 5, resume=tmp_path / "b")
    assert equal(transport_model(resumed, SIGNS.inverse()), reference)
    # control: the moved weights with the state as it was
    shutil.copy(tmp_path / "a" / "optimizer.bin", tmp_path / "b" / "optimizer.bin")
    unmoved = run(fresh(9, **config), 2, 5, resume=tmp_path / "b")
    assert not equal(transport_model(unmoved, SIGNS.inverse()), reference)


def test_the_weights_keep_names_dtypes_and_metadata(tmp_path):
    model = run(fresh(), 0, 1, save=tmp_path / "a")
    file = tmp_path / "a" / "model.safetensors"
    weights = {f"_orig_mod.module.{n}": t for n, t in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt", "note": "compiled"})
    seen = []
    more = {"out": tmp_path / "b", "progress": lambda *step: seen.append(step)}
    state = transport_optimizer(tmp_path / "a", G, fresh(7), **more)
    nbytes = sum(t.nbytes for t in weights.values())
    assert seen[-1] == (nbytes, nbytes, "weights")
    written = load_file(tmp_path / "b" / "model.safetensors")
    expected = transport_model(model, G).state_dict()
    assert written.keys() == weights.keys()
    for name, t in written.items():
        assert torch.equal(t, expected[name.removeprefix("_orig_mod.module.")]), name
    with safe_open(tmp_path / "b" / "model.safetensors", "pt") as f:
        assert f.metadata() == {"format": "pt", "note": "compiled"}
    stored = torch.load(tmp_path / "b" / "optimizer.bin", weights_only=True)
    names = [n for n, _ in model.named_parameters()]
    before = torch.load(tmp_path / "a" / "optimizer.bin", weights_only=True)
    embedding = names.index("model.embed_tokens.weight")
    assert torch.equal(stored["state"][embedding]["exp_avg"], G.act(before["state"][embedding]["exp_avg"]))
    assert torch.equal(
        stored["state"][embedding]["exp_avg_sq"], G.act_gain(before["state"][embedding]["exp_avg_sq"])
    )
    assert stored["param_groups"] == state["param_groups"] == before["param_groups"]


def test_a_folder_with_a_config_needs_no_model(tmp_path):
    model = run(fresh(), 0, 1, save=tmp_path / "a")
    with pytest.raises(ValueError, match=r"a holds no config.json, .*pass model="):
        transport_optimizer(tmp_path / "a", G, out=tmp_path / "b")
    model.config.save_pretrained(tmp_path / "a")
    expected = transport_optimizer(tmp_path / "a", G, fresh(7))
    moved = transport_optimizer(tmp_path / "a", G, out=tmp_path / "b")
    assert torch.equal(moved["state"][0]["exp_avg"], expected["state"][0]["exp_avg"])
    assert (tmp_path / "b" / "config.json").read_bytes() == (tmp_path / "a" / "config.json").read_bytes()


def test_the_given_model_is_not_changed(tmp_path):
    run(fresh(), 0, 1, save=tmp_path / "a")
    given = fresh(7)
    transport_optimizer(tmp_path / "a", G, given, out=tmp_path / "b")
    assert equal(given, fresh(7))


def test_several_groups_need_names(tmp_path):
    run(fresh(), 0, 1, save=tmp_path / "a")
    file = tmp_path / "a" / "optimizer.bin"
    state = torch.load(file, weights_only=True)
    (group,) = state["param_groups"]
    state["param_groups"] = [group | {"params": group["params"][:5]}, group | {"params": group["params"][5:]}]
    torch.save(state, file)
    with pytest.raises(
        ValueError, match=r"optimizer.bin: the state has 2 param_groups and no param_names.*names="
    ):
        transport_optimizer(tmp_path / "a", G, fresh(7))
    transport_optimizer(tmp_path / "a", G, fresh(7), names=[n for n, _ in fresh().named_parameters()])


def test_folders_that_do_not_fit_are_refused(tmp_path):
    run(fresh(), 0, 1, save=tmp_path / "a")
    source = tmp_path / "a"

    def refused(error, match, model=None, **options):
        with pytest.raises(error, match=match):
            transport_optimizer(source, G, model or fresh(7), out=tmp_path / "new" / "b", **options)
        assert not (tmp_path / "new").exists()

    refused(
        ValueError,
        r"model.safetensors: the weights do not fit .* is torch.float32 of shape",
        fresh(7, intermediate_size=40),
    )
    refused(ValueError, r"model.layers.2.* is missing", fresh(7, num_hidden_layers=3))
    refused(ValueError, r"model.layers.1.* is not in the model", fresh(7, num_hidden_layers=1))
    weights = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(weights[:-9])
    refused(ValueError, r"model.safetensors is not a readable safetensors file")
    (source / "model.safetensors").unlink()
    refused(FileNotFoundError, r"no weights in .*a: expected model.safetensors or pytorch_model.bin beside")
    torch.save([1], source / "pytorch_model.bin")
    refused(ValueError, r"pytorch_model.bin: expected a dict of tensors by name, got a list")
    (source / "pytorch_model.bin").unlink()
    (source / "model.safetensors").write_bytes(weights)
    state = (source / "optimizer.bin").read_bytes()
    (source / "optimizer.bin").write_bytes(state[: len(state) // 2])
    refused(ValueError, r"optimizer.bin cannot be read as plain tensors")
    (source / "optimizer.bin").write_bytes(state)
    shutil.copy(source / "optimizer.bin", source / "optimizer_1.bin")
    refused(ValueError, r"holds several optimizers \(optimizer.bin, optimizer_1.bin\)")
    (source / "optimizer_1.bin").rename(source / "optimizer.pt")
    refused(ValueError, r"holds both optimizer.pt and optimizer.bin")
    (source / "optimizer.pt").unlink()
    (source / "optimizer.bin").unlink()
    refused(FileNotFoundError, r"no optimizer.pt in .*a, nor accelerate's optimizer.bin; found")


def test_nothing_is_overwritten_without_force_and_never_the_source(tmp_path):
    run(fresh(), 0, 1, save=tmp_path / "a")
    (tmp_path / "secret").write_text("a secret")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "secret")
    with pytest.warns(UserWarning, match=r"left out of .*b: link \(links out of the folder\)"):
        transport_optimizer(tmp_path / "a", G, fresh(7), out=tmp_path / "b")
    assert not (tmp_path / "b" / "link").exists()
    (tmp_path / "a" / "link").unlink()
    first = load_file(tmp_path / "b" / "model.safetensors")
    with pytest.raises(FileExistsError, match="b exists already"):
        transport_optimizer(tmp_path / "a", G.inverse(), fresh(7), out=tmp_path / "b")
    transport_optimizer(tmp_path / "a", G.inverse(), fresh(7), out=tmp_path / "b", force=True)
    assert not torch.equal(
        load_file(tmp_path / "b" / "model.safetensors")["lm_head.weight"], first["lm_head.weight"]
    )
    for out in (tmp_path / "a", tmp_path / "a" / "b", tmp_path):
        with pytest.raises(ValueError, match="expected a place apart"):
            transport_optimizer(tmp_path / "a", G, fresh(7), out=out, force=True)
