"""Test what ``transport_sae_file`` refuses, where an SAE is found to sit, and what is left out."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import gaugeport as gp
from gaugeport.groups import Orthogonal, SignedPermutation
from gaugeport.transport import transport_sae, transport_sae_file
from stored_saes import CASES, D, N, forward, write
from tiny_saes import build, element, gap, tokens

G = element(SignedPermutation, d=D)


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def refused(source, error, match, g=G, **options):
    """Check that a move raises an error, writes nothing, and leaves its source as it is."""
    before = contents(source) if source.is_dir() else None
    out = source.parent / "out" / "b"
    with pytest.raises(error, match=match):
        transport_sae_file(source, g, out, **options)
    assert not out.parent.exists()
    assert before is None or contents(source) == before


def change(folder, name, **options):
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | options))


@pytest.mark.parametrize(("library", "kind"), CASES)
def test_unknown_missing_and_misshapen_tensors_are_named(library, kind, tmp_path):
    source = write(library, kind, tmp_path / "a")
    file = source / ("sae.safetensors" if library == "sparsify" else "ae.pt")
    load, save = (load_file, save_file) if library == "sparsify" else (lambda f: torch.load(f), torch.save)
    weights = load(file)
    name = next(n for n in weights if weights[n].dim() == 2)
    for change, message in (
        ({"extra": torch.zeros(D)}, rf"{source}: extra matches no rule of the .*; known: "),
        ({name: None}, rf"{source}: this .* has no {name}; it holds"),
        ({name: weights[name].T.contiguous()}, rf"{source}: .* has shape "),
        ({name: weights[name][:, :-1].contiguous()}, rf"{source}: .* has shape |width 16; this"),
        ({name: weights[name].to(torch.int8)}, rf"{source}: {name} is torch.int8; allowed: float16"),
    ):
        save({n: t for n, t in (dict(weights) | change).items() if t is not None}, file)
        refused(source, ValueError, message)


def test_gauges_of_another_width_or_kind_are_refused(tmp_path):
    for library, kind in CASES:
        source = write(library, kind, tmp_path / kind)
        refused(source, ValueError, r"width 15; this .* has d_in=16", element(SignedPermutation, d=15))
        refused(source, TypeError, "expected a gauge element, got Tensor", torch.eye(D))


def test_damaged_files_objects_and_other_contents_are_refused(tmp_path):
    source = write("dictionary_learning", "AutoEncoder", tmp_path / "a")
    weights = (source / "ae.pt").read_bytes()
    (source / "ae.pt").write_bytes(weights[: len(weights) // 2])
    refused(source, ValueError, r"ae.pt cannot be read as plain tensors")
    for content, message in (
        ({"a": nn.Linear}, "cannot be read as plain tensors"),
        ([torch.zeros(2)], "expected a dict of tensors by name, got a list"),
        ({1: torch.zeros(2)}, "expected tensors by name, but one is named 1"),
        ({"a": 1}, "expected plain tensors by name, but a is a int"),
        ({"a": torch.zeros(2).to_sparse()}, "a is a torch.sparse_coo tensor"),
        ({"a": torch.zeros(2, device="meta")}, "a is a torch.strided tensor on meta"),
    ):
        torch.save(content, source / "ae.pt")
        refused(source, ValueError, message)
    (source / "ae.pt").write_bytes(weights)
    for text in ("{", "[]", "\xff"):
        (source / "config.json").write_text(text, encoding="latin-1")
        refused(source, ValueError, r"config.json")
    sparsify = write("sparsify", "sae", tmp_path / "c")
    (sparsify / "sae.safetensors").write_bytes(b"short")
    refused(sparsify, ValueError, r"sae.safetensors is not a readable safetensors file")


def test_classes_and_options_that_cannot_be_moved_are_refused(tmp_path):
    source = write("dictionary_learning", "AutoEncoder", tmp_path / "a")
    for trainer in ({"dict_class": "CrossCoder"}, {"dict_class": ["AutoEncoder"]}, {}, None):
        change(source, "config.json", trainer=trainer)
        refused(source, ValueError, r"no rules for trainer.dict_class=.*; known: AutoEncoder, AutoEncoderNew")
    refused(write("sparsify", "sae", tmp_path / "b", gram_lookup=True), ValueError, "gram_lookup=true: ")
    for d_in in (None, "16", 0, True, 16.0):
        refused(
            write("sparsify", "sae", tmp_path / f"d{d_in}", d_in=d_in),
            ValueError,
            r"the config's d_in: expected a positive integer, got ",
        )
    build("standard", torch.float32).save_model(tmp_path / "e")
    for options, message in (
        ({"architecture": "crosscoder"}, "no rules for the SAE architecture 'crosscoder'; known: standard"),
        ({"architecture": ["standard"]}, "no rules for the SAE architecture"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
        ({"normalize_activations": "layer_norm"}, "'layer_norm' is covariant under"),
        ({"normalize_activations": "batch_norm"}, "unknown normalize_activations='batch_norm'"),
        ({"d_sae": 65}, "has shape .* of sizes"),
    ):
        build("standard", torch.float32).save_model(tmp_path / "e")
        change(tmp_path / "e", "cfg.json", **options)
        refused(tmp_path / "e", ValueError, message)


def test_folders_without_an_sae_or_with_several_are_refused(tmp_path):
    refused(tmp_path / "nowhere", FileNotFoundError, "no folder at .*nowhere; expected the folder of an SAE")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", FileNotFoundError, r"no SAE in .*sparsify: sae.safetensors and cfg.json")
    write("sparsify", "sae", tmp_path / "many" / "layers.1")
    write("sparsify", "sae", tmp_path / "many" / "layers.2")
    refused(tmp_path / "many", FileNotFoundError, r"pass one of its folders: layers.1, layers.2")
    both = write("sparsify", "sae", tmp_path / "both")
    build("standard", torch.float32).save_model(tmp_path / "e")
    (tmp_path / "e" / "sae_weights.safetensors").rename(both / "sae_weights.safetensors")
    refused(both, ValueError, "SAEs in 2 formats; name one file of sae_weights.safetensors, sae.safetensors")
    with pytest.warns(UserWarning, match=r"left out .*: sae_weights.safetensors"):
        transport_sae_file(both / "sae.safetensors", G, tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["cfg.json", "sae.safetensors"]
    (both / "cfg.json").unlink()
    refused(both / "sae.safetensors", FileNotFoundError, r"no cfg.json beside .*sae.safetensors")


def test_nothing_is_overwritten_without_force_and_never_the_source(tmp_path):
    source = write("sparsify", "sae", tmp_path / "a")
    before = contents(source)
    transport_sae_file(source, G, tmp_path / "b")
    first = contents(tmp_path / "b")
    with pytest.raises(FileExistsError, match=r"b exists already.*force=True"):
        transport_sae_file(source, G.inverse(), tmp_path / "b")
    assert contents(tmp_path / "b") == first
    transport_sae_file(source, G.inverse(), tmp_path / "b", force=True)
    assert contents(tmp_path / "b") != first
    for given in (source, source / "sae.safetensors"):
        for out in (source, source / "b", tmp_path):
            with pytest.raises(ValueError, match="expected a place apart from it"):
                transport_sae_file(given, G, out, force=True)
    assert contents(source) == before and {p.name for p in tmp_path.iterdir()} == {"a", "b"}


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail_halfway(content, file):
        file.write_bytes(b"half")
        raise OSError("disk full")

    source = write("dictionary_learning", "AutoEncoder", tmp_path / "a")
    monkeypatch.setattr(torch, "save", fail_halfway)
    with pytest.raises(OSError, match="disk full"):
        transport_sae_file(source, G, tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_earlier_checkpoints_and_links_out_are_left_out_with_a_warning(tmp_path):
    source = write("dictionary_learning", "AutoEncoder", tmp_path / "a")
    torch.save({}, source / "ae_1000.pt")
    (source / "checkpoints").mkdir()
    (tmp_path / "secret.txt").write_text("a secret")
    (source / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (source / "eval_results.json").write_text("{}")
    with pytest.warns(
        UserWarning, match=r"left out .*a: ae_1000.pt, checkpoints, notes.txt \(tensors in the"
    ):
        transport_sae_file(source, G, tmp_path / "b")
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"ae.pt", "config.json", "eval_results.json"}


# sites

UNMOVED = pytest.warns(UserWarning, match="heads or neurons.*copied as it is")


@pytest.mark.parametrize(
    "name", ["layers.6", "h.3", "layers.3.mlp", "embed_tokens", "layers.2/seed0", "my sae"]
)
def test_sparsify_folders_are_named_after_what_is_on_the_stream(name, tmp_path):
    source = write("sparsify", "sae", tmp_path / name)
    assert transport_sae_file(source, G, tmp_path / "out")["moved"] == ["W_dec", "b_dec", "encoder.weight"]


@pytest.mark.parametrize("name", ["layers.6.mlp.up_proj", "layers.3.self_attn.q_proj", "h.3.mlp.act/seed12"])
def test_sparsify_saes_on_heads_and_neurons_are_copied(name, tmp_path):
    source = write("sparsify", "sae", tmp_path / name)
    with UNMOVED:
        record = transport_sae_file(source, element(Orthogonal, d=7), tmp_path / "out")
    assert record["moved"] == [] and "hooks" in record["note"]
    assert contents(tmp_path / "out")["sae.safetensors"] == contents(source)["sae.safetensors"]
    # said otherwise, it moves
    assert transport_sae_file(source, G, tmp_path / "moved", hook="layers.6")["moved"]


def test_a_transcoder_reads_its_modules_input_and_writes_its_output(tmp_path):
    rotation, x = element(Orthogonal, d=D), tokens(d=D)
    for name in ("layers.3.mlp", "h.2.attn"):
        source = write("sparsify", "skip", tmp_path / name)
        refused(source, ValueError, r"the input of this sparsify transcoder .* behind the gain", rotation)
        transport_sae_file(source, G, tmp_path / f"b {name}")
        latents, _ = forward(source, x)
        assert gap(forward(tmp_path / f"b {name}", G.act(x))[0], latents) <= 1e-12
    for name in ("layers.3", "layers.3.input_layernorm"):
        source = write("sparsify", "transcoder", tmp_path / name)
        if name == "layers.3":
            transport_sae_file(source, rotation, tmp_path / "c")
        else:
            refused(
                source, ValueError, r"the output of this sparsify transcoder .* behind the gain", rotation
            )
    refused(
        write("sparsify", "transcoder", tmp_path / "layers.3.mlp.down_proj"),
        ValueError,
        r"cannot tell what the module 'layers.3.mlp.down_proj' reads; name it by hook=",
    )


@pytest.mark.parametrize(
    ("submodule", "io", "moved", "rotates"),
    [
        (None, "out", True, True),
        ("resid_post_layer_8", "out", True, True),
        ("resid_out_layer3", "in", True, True),
        ("mlp_out_layer_3", "out", True, True),
        ("mlp_out_layer_3", "in", True, False),
        ("attn_out_layer_3", "in_and_out", True, False),
        ("blocks.3.hook_resid_post", "out", True, True),
        ("model.layers.3.input_layernorm", "out", True, False),
        ("gpt_neox.layers.3.mlp", "in_and_out", True, False),
        ("blocks.3.attn.hook_z", "out", False, True),
    ],
)
def test_dictionary_learning_names_its_site_in_the_config(submodule, io, moved, rotates, tmp_path):
    source = write("dictionary_learning", "AutoEncoder", tmp_path / "a", submodule_name=submodule)
    change(source, "config.json", buffer={"io": io})
    for i, (g, allowed) in enumerate(((G, True), (element(Orthogonal, d=D), rotates))):
        if not allowed:
            refused(source, ValueError, "behind the gain of a norm.*fold_gains", g)
        elif moved:
            assert transport_sae_file(source, g, tmp_path / f"b{i}")["moved"]
        else:
            with UNMOVED:
                assert transport_sae_file(source, g, tmp_path / f"b{i}")["moved"] == []


def test_unknown_sites_are_refused_until_they_are_named(tmp_path):
    source = write("dictionary_learning", "AutoEncoder", tmp_path / "a", submodule_name="layer7")
    refused(source, ValueError, r"cannot tell whether trainer.submodule_name 'layer7' .*hook=")
    refused(source, ValueError, r"cannot tell whether hook 'here' is on", hook="here")
    transport_sae_file(source, G, tmp_path / "b", hook="blocks.7.hook_resid_post")
    build("standard", torch.float32).save_model(tmp_path / "c")
    change(tmp_path / "c", "cfg.json", metadata={"hook_name": "my_hook", "sae_lens_version": "6.54.12"})
    refused(tmp_path / "c", ValueError, r"cannot tell whether hook_name 'my_hook' .*name it by hook=")
    change(tmp_path / "c", "cfg.json", metadata={"hook_name": 3, "sae_lens_version": "6.54.12"})
    refused(tmp_path / "c", ValueError, r"cannot tell whether hook_name 3 ")
    transport_sae_file(tmp_path / "c", G, tmp_path / "d", hook="model.layers.3")
    with UNMOVED:
        transport_sae_file(tmp_path / "c", G, tmp_path / "e", hook="blocks.3.attn.hook_z")


# objects of other libraries


class SparseCoder(nn.Module):
    """Has what sparsify's class has."""

    def __init__(self):
        super().__init__()
        self.cfg, self.d_in, self.num_latents = {"k": 5}, D, N
        self.encoder = nn.Linear(D, N)
        self.W_dec, self.b_dec = nn.Parameter(torch.zeros(N, D)), nn.Parameter(torch.zeros(D))


@pytest.mark.parametrize("module", [SparseCoder(), nn.Linear(D, N), nn.ModuleDict()])
def test_modules_of_other_libraries_are_refused_with_what_is_accepted(module):
    got = rf"expected an SAE or transcoder of sae-lens, got .*{type(module).__name__}; "
    with pytest.raises(TypeError, match=rf"{got}SAEs of sparsify .* as the folders .* by transport_sae_file"):
        transport_sae(module, G)


def test_a_path_given_as_an_object_is_named():
    with pytest.raises(
        TypeError, match=r"got str; sae_lens.SAE.load_from_disk reads .* transport_sae_file moves"
    ):
        gp.transport_sae("folder", G)
