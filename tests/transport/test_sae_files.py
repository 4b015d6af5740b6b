"""Test that SAEs of three libraries move from folder to folder, and keep their latents and their formats."""

import json
import warnings

import pytest
import torch
from sae_lens import SAE, TrainingSAE
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gaugeport.groups import AffineGauge, Orthogonal, Permutation, SignedPermutation
from gaugeport.transport import transport_sae, transport_sae_file
from gaugeport.transport.sae_description import gauge_digest
from stored_saes import CASES, D, forward, write
from tiny_saes import CASES as SAE_LENS_CASES
from tiny_saes import build, element, gap, tokens

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks", "ignore:Setting use_error_term")
every_case = pytest.mark.parametrize(("library", "kind"), CASES)


def gaps(source, moved, g, x):
    """Return the larger of the relative changes of latents and reconstructions."""
    (latents, recon), (moved_latents, moved_recon) = forward(source, x), forward(moved, g.act(x))
    assert bool(latents.any()) and bool(recon.any())
    return max(gap(moved_latents, latents), gap(moved_recon, g.act(recon)))


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@every_case
@pytest.mark.parametrize("group", [Permutation, SignedPermutation, Orthogonal])
def test_latents_stay_and_reconstructions_move(library, kind, group, tmp_path):
    source, g, x = write(library, kind, tmp_path / "a"), element(group, d=D), tokens(d=D)
    before = contents(source)
    transport_sae_file(source, g, tmp_path / "b")
    assert gaps(source, tmp_path / "b", g, x) <= 1e-12
    assert contents(source) == before
    # control: the SAE as it was is another function of the moved activations
    assert gaps(source, source, g, x) > 1e-1


@every_case
def test_sign_changes_are_bit_equal_and_signs_matter(library, kind, tmp_path):
    source, x = write(library, kind, tmp_path / "a", torch.float32), tokens(torch.float32, D)
    g = SignedPermutation(torch.arange(D), element(SignedPermutation, d=D).sign)
    transport_sae_file(source, g, tmp_path / "b")
    (latents, recon), (moved, moved_recon) = forward(source, x), forward(tmp_path / "b", g.act(x))
    assert torch.equal(moved, latents) and torch.equal(moved_recon, g.act(recon))
    g = element(SignedPermutation, d=D)
    transport_sae_file(source, g.without_signs(), tmp_path / "c")
    assert gaps(source, tmp_path / "c", g, x) > 1e-1


@every_case
def test_an_affine_gauge_moves_the_decoders_bias_as_a_point_if_the_encoder_subtracts_it(
    library, kind, tmp_path
):
    source, x = write(library, kind, tmp_path / "a"), tokens(d=D)
    g = AffineGauge(element(Orthogonal, d=D), element(AffineGauge, 5, d=D).shift)
    if kind in ("AutoEncoderNew", "JumpReluAutoEncoder", "transcoder", "skip"):
        with pytest.raises(ValueError, match=r"does not subtract .* and would see the shift"):
            transport_sae_file(source, g, tmp_path / "b")
        assert not (tmp_path / "b").exists()
        return
    transport_sae_file(source, g, tmp_path / "b")
    assert gaps(source, tmp_path / "b", g, x) <= 1e-12
    transport_sae_file(source, g.linear, tmp_path / "c")
    assert gaps(source, tmp_path / "c", g, x) > 1e-1


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_everything_else_is_kept(library, kind, dtype, tmp_path):
    source, g = write(library, kind, tmp_path / "a", dtype), element(SignedPermutation, d=D)
    (source / "README.md").write_text("trained on a laptop")
    record = transport_sae_file(source, g, tmp_path / "b", provenance={"run": 3})
    transport_sae_file(tmp_path / "b", g.inverse(), tmp_path / "back")
    assert {p.name for p in (tmp_path / "b").iterdir()} == {p.name for p in source.iterdir()}
    assert contents(tmp_path / "b")["README.md"] == contents(source)["README.md"]
    weights, config = ("sae.safetensors", "cfg.json") if library == "sparsify" else ("ae.pt", "config.json")
    load = load_file if library == "sparsify" else lambda f: torch.load(f, weights_only=True)
    was, now, back = (load(tmp_path / name / weights) for name in ("a", "b", "back"))
    assert type(now) is type(was) and list(now) == list(was)
    assert {n: (t.dtype, t.shape) for n, t in now.items()} == {n: (t.dtype, t.shape) for n, t in was.items()}
    assert all(torch.equal(back[n], t) for n, t in was.items())
    assert record["moved"] == [n for n, t in was.items() if not torch.equal(now[n], t)]
    written = json.loads((tmp_path / "b" / config).read_text())
    assert written.pop("gaugeport") == [record]
    assert written == json.loads((source / config).read_text())
    assert record["digest"] == gauge_digest(g) and record["provenance"] == {"run": 3}
    assert len(json.loads((tmp_path / "back" / config).read_text())["gaugeport"]) == 2
    if library == "sparsify":
        with safe_open(tmp_path / "b" / weights, "pt") as f:
            assert f.metadata() == {"format": "pt"}


def test_parameters_strides_and_what_torch_compile_leaves_are_kept(tmp_path):
    source, g = write("dictionary_learning", "BatchTopKSAE", tmp_path / "a"), element(SignedPermutation, d=D)
    plain = torch.load(source / "ae.pt", weights_only=True)
    plain["encoder.weight"] = torch.nn.Parameter(
        plain["encoder.weight"].T.contiguous().T, requires_grad=False
    )
    plain._metadata = {"version": 1}
    compiled = type(plain)((f"_orig_mod.{n}", t) for n, t in plain.items())
    transport_sae_file(source, g, tmp_path / "expected")
    expected = torch.load(tmp_path / "expected" / "ae.pt", weights_only=True)
    for prefix, weights in (("", plain), ("_orig_mod.", compiled)):
        torch.save(weights, source / "ae.pt")
        transport_sae_file(source, g, tmp_path / "b", force=True)
        moved = torch.load(tmp_path / "b" / "ae.pt", weights_only=True)
        assert all(torch.equal(moved[prefix + n], t) for n, t in expected.items())
        was, now = weights[f"{prefix}encoder.weight"], moved[f"{prefix}encoder.weight"]
        assert type(now) is torch.nn.Parameter and now.stride() == was.stride() and not now.requires_grad
    assert torch.load(tmp_path / "b" / "ae.pt", weights_only=True).keys() == compiled.keys()
    torch.save(plain, source / "ae.pt")
    transport_sae_file(source, g, tmp_path / "b", force=True)
    assert torch.load(tmp_path / "b" / "ae.pt", weights_only=True)._metadata == {"version": 1}


@pytest.mark.parametrize("group", [SignedPermutation, Orthogonal])
@pytest.mark.parametrize("case", SAE_LENS_CASES)
def test_folders_of_sae_lens_move_as_their_saes_do(case, group, tmp_path):
    g, x = element(group), tokens(torch.float32)
    build(case, torch.float32).save_model(tmp_path / "a")
    record = transport_sae_file(tmp_path / "a", g, tmp_path / "b", provenance={"run": 3})
    load = (TrainingSAE if case.endswith("-training") else SAE).load_from_disk
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, moved = load(tmp_path / "a"), load(tmp_path / "b")
    expected = transport_sae(first, g, {"run": 3})
    assert moved.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(t, expected.state_dict()[n]) for n, t in moved.state_dict().items())
    assert not torch.equal(moved.W_dec, first.W_dec)
    (stored,) = moved.cfg.metadata["gaugeport"]
    assert stored == record and stored | {"moved": 0} == expected.cfg.metadata["gaugeport"][0] | {"moved": 0}
    assert set(record["moved"]) == set(expected.cfg.metadata["gaugeport"][0]["moved"])
    with torch.no_grad():
        assert torch.equal(moved(x), expected(x))


OLD_CONFIG = {"d_in": D, "d_sae": 64, "dtype": "torch.float32", "model_name": "gpt2", "device": "cpu"}


@pytest.mark.parametrize(
    "options",
    [
        {"hook_point": "blocks.3.hook_resid_pre"},
        {"hook_name": "blocks.3.hook_resid_pre", "normalize_activations": False},
        {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}},
        {"architecture": "jumprelu"},
    ],
)
def test_folders_of_older_versions_of_sae_lens_are_read(options, tmp_path):
    """Before version 6 the hook's name was at the top of the config, and "standard" was left out."""
    case = options.get("architecture", "topk" if "activation_fn_str" in options else "standard")
    sae, g, x = build(case, torch.float32), element(SignedPermutation), tokens(torch.float32)
    sae.save_model(tmp_path / "a")
    (tmp_path / "a" / "cfg.json").write_text(json.dumps(OLD_CONFIG | options))
    save_file({"sparsity": torch.ones(64)}, tmp_path / "a" / "sparsity.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the file of sparsities is known, and copied
        transport_sae_file(tmp_path / "a", g, tmp_path / "b")
    assert (tmp_path / "b" / "sparsity.safetensors").exists()
    first, moved = SAE.load_from_disk(tmp_path / "a"), SAE.load_from_disk(tmp_path / "b")
    assert type(moved) is type(sae)
    with torch.no_grad():
        assert gap(moved.encode(g.act(x)), first.encode(x)) <= 1e-5
        assert gap(first.encode(g.act(x)), first.encode(x)) > 1e-1
    before, after = (json.loads((tmp_path / n / "cfg.json").read_text()) for n in ("a", "b"))
    assert after.pop("gaugeport")[0]["group"] == "signed_permutation" and after == before


def test_log_thresholds_of_older_training_saes_are_kept(tmp_path):
    g, x = element(SignedPermutation), tokens(torch.float32)
    build("jumprelu-training", torch.float32).save_model(tmp_path / "a")
    file = tmp_path / "a" / "sae_weights.safetensors"
    weights = load_file(file)
    weights["log_threshold"] = weights.pop("threshold").log()
    save_file(weights, file)
    transport_sae_file(tmp_path / "a", g, tmp_path / "b")
    first, moved = (TrainingSAE.load_from_disk(tmp_path / name) for name in ("a", "b"))
    with torch.no_grad():
        assert gap(moved.encode(g.act(x)), first.encode(x)) <= 1e-5
