"""Damage gauges, SAEs, directions, adapters and optimizer states at random.

Only errors of our own may come, which name the file or its folder; no source changes, and after an error
nothing lies under the final name.
"""

import shutil
import warnings

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from hypothesis import event, given
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import Trainer, TrainingArguments, default_data_collator

import gaugeport as gp
from damage import FUZZ, damaged_bytes, damaged_header, damaged_json, damaged_tensors
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.training.trainer import Rows
from lora_adapters import adapt
from stored_saes import write
from tiny_saes import build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.filterwarnings("ignore")]
D = 16


def gauge(d=D, cls=gp.SignedPermutation):
    return cls.random(d, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check(file, content, use, out):
    """Put damaged bytes into a file, use it, and put the old bytes back."""
    folder, old = file.parent, file.read_bytes()
    file.write_bytes(content)
    before = snapshot(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use()
        event("used")
    except (ValueError, FileNotFoundError, TypeError) as e:
        event("refused")
        assert type(e) in (ValueError, FileNotFoundError, TypeError), repr(e)
        assert str(folder) in str(e), f"{e!r} does not name {folder}"
        assert out is None or not out.exists(), e
    finally:
        assert snapshot(folder) == before
        assert out is None or sorted(p.name for p in out.parent.iterdir()) in ([], [out.name])
        file.write_bytes(old)
        if out is not None:
            shutil.rmtree(out.parent)
            out.parent.mkdir()


def outside(place, name):
    (place / "out").mkdir(exist_ok=True)
    return place / "out" / name


def content_of(file, data):
    """Draw a damaged version of a file: its bytes, or what they mean."""
    content, ways = file.read_bytes(), [damaged_bytes]
    ways += {".json": [damaged_json], ".safetensors": [damaged_header]}.get(file.suffix, [])
    ways += [damaged_tensors] if file.suffix in (".pt", ".bin") else []
    return data.draw(st.sampled_from(ways))(content, data)


@pytest.mark.parametrize("cls", [gp.SignedPermutation, gp.Orthogonal, gp.AffineGauge])
@FUZZ
@given(data=st.data())
def test_gauges(place, cls, data):
    (place / "gauges").mkdir(exist_ok=True)
    file = place / "gauges" / f"{cls.group}.safetensors"
    if not file.exists():
        gauge(cls=cls).save(file, {"run": 3})

    def use():
        g = gp.load_gauge(file)
        assert g.act(torch.ones(g.size)).shape == (g.size,)
        assert isinstance(gp.gauge_provenance(file), dict)

    check(file, content_of(file, data), use, None)


FORMATS = [("sae_lens", "jumprelu"), ("sae_lens", "skip_transcoder"), ("sparsify", "skip")]
FORMATS += [("dictionary_learning", kind) for kind in ("AutoEncoderTopK", "MatryoshkaBatchTopKSAE")]


@pytest.mark.parametrize(("library", "kind"), FORMATS)
@FUZZ
@given(data=st.data())
def test_saes(place, library, kind, data):
    folder = place / library / kind
    if not folder.exists():
        if library == "sae_lens":
            build(kind, torch.float32).save_model(folder)
        else:
            write(library, kind, folder, torch.float32)
    file = data.draw(st.sampled_from(sorted(folder.iterdir())))
    out = outside(place, "sae")
    check(file, content_of(file, data), lambda: gp.transport_sae_file(folder, gauge(), out), out)
    gains = torch.linspace(0.5, 2, D)
    fold = lambda: gp.fold_sae_file(folder, gains, out, hook="model.norm", hook_out="model.norm")  # noqa: E731
    check(file, content_of(file, data), fold, out)


def write_directions(file):
    v = torch.randn(3, D, generator=torch.Generator().manual_seed(2))
    match file.suffix:
        case ".safetensors":
            save_file({"v": v, "w": v[0].clone()}, file, metadata={"layer": "3"})
        case ".npy":
            np.save(file, v.numpy())
        case ".pt":
            torch.save({"layer_activations": {3: v[0].clone(), 4: [v]}, "layer_type": "decoder_block"}, file)
        case ".gguf":
            writer = GGUFWriter(file, "controlvector")
            writer.add_string("controlvector.model_hint", "llama")
            writer.add_array("tags", ["a", "b"])
            for i in range(2):
                writer.add_tensor(f"direction.{i}", v[i].numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".pt", ".gguf"])
@FUZZ
@given(data=st.data())
def test_directions(place, suffix, data):
    (place / "directions").mkdir(exist_ok=True)
    file = place / "directions" / f"v{suffix}"
    if not file.exists():
        write_directions(file)
    out = outside(place, f"w{suffix}")
    g = gauge(cls=data.draw(st.sampled_from([gp.SignedPermutation, gp.Orthogonal])))
    check(file, content_of(file, data), lambda: gp.transport_direction_file(file, g, out), out)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b'{"anger": [3, 5], "joy": [1]}'),
        ("b.json", b"[3, 5, 11]"),
        ("a.txt", b"3\n5\n11\n"),
        ("a.npy", None),
    ],
)
@FUZZ
@given(data=st.data())
def test_index_lists(place, name, content, data):
    (place / "indices").mkdir(exist_ok=True)
    file = place / "indices" / name
    if content is None:
        np.save(file, np.array([3, 5, 11]))
    else:
        file.write_bytes(content)
    damaged = (
        damaged_json(content, data) if content and content[:1] == b"{" and data.draw(st.booleans()) else None
    )
    out = outside(place, "b.json")
    use = lambda: gp.transport_indices_file(file, gauge(), out)  # noqa: E731
    check(file, damaged or damaged_bytes(file.read_bytes(), data), use, out)


@pytest.fixture(scope="module")
def adapters(place):
    """A model, and the folders of an adapter in both formats of its weights."""
    model = tiny_model("llama", torch.Generator().manual_seed(0), 32)
    adapted, tensors, _ = adapt(model)
    for name in ("new", "old"):
        adapted.save_pretrained(place / "adapters" / name)
    (place / "adapters" / "old" / "adapter_model.safetensors").unlink()
    torch.save(tensors, place / "adapters" / "old" / "adapter_model.bin")
    return model, place / "adapters"


@pytest.mark.parametrize("name", ["new", "old"])
@FUZZ
@given(data=st.data())
def test_adapters(place, adapters, name, data):
    model, folders = adapters
    files = [p for p in sorted((folders / name).iterdir()) if p.name.startswith("adapter")]
    file = data.draw(st.sampled_from(files))
    out, move = outside(place, "adapter"), data.draw(st.booleans())
    content = content_of(file, data)
    if move:
        check(file, content, lambda: gp.transport_lora(file.parent, gauge(32), model, out), out)
    else:
        check(file, content, lambda: gp.fold_lora(file.parent, model, out), out)


@pytest.fixture(scope="module")
def checkpoints(place):
    """A model, and checkpoint folders of Trainer, and as accelerate writes them."""
    model = tiny_model("llama", torch.Generator().manual_seed(0), 32)
    with torch.random.fork_rng():
        options = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "per_device_train_batch_size": 4}
        args = TrainingArguments(str(place / "run"), max_steps=1, save_steps=1, **options)
        rows = Rows(torch.randint(0, 64, (8, 16), generator=torch.Generator().manual_seed(1)))
        Trainer(model, args, train_dataset=rows, data_collator=default_data_collator).train()
    (place / "checkpoints").mkdir()
    (place / "run" / "checkpoint-1").rename(place / "checkpoints" / "trainer")
    optimizer = torch.optim.AdamW(model.parameters())
    model(rows.rows[:2], labels=rows.rows[:2]).loss.backward()
    optimizer.step()
    folder = place / "checkpoints" / "accelerate"
    folder.mkdir()
    torch.save(optimizer.state_dict(), folder / "optimizer.bin")
    save_file({n: p.detach().clone() for n, p in model.named_parameters()}, folder / "model.safetensors")
    return model, place / "checkpoints"


@pytest.mark.parametrize("name", ["trainer", "accelerate"])
@FUZZ
@given(data=st.data())
def test_optimizer_states(place, checkpoints, name, data):
    model, folders = checkpoints
    names = {"trainer": ["optimizer.pt"], "accelerate": ["optimizer.bin", "model.safetensors"]}[name]
    file = folders / name / data.draw(st.sampled_from(names))
    out, given_model = outside(place, "checkpoint"), None if name == "trainer" else model
    content = content_of(file, data)
    check(file, content, lambda: gp.transport_optimizer(file.parent, gauge(32), given_model, out=out), out)
