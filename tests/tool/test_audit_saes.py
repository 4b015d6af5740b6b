"""``gaugeport audit`` reads SAEs of every library that ``gaugeport transport sae`` moves."""

import json

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from safetensors.torch import save_file

from gaugeport.charts import chart_of
from gaugeport.models.loading import load_model
from gaugeport.streams.activations import streams_at
from gaugeport.streams.massive import leave_out_massive
from gaugeport.texts import row_batches
from gaugeport.tool.text import positions_of, token_rows
from processes import printed
from tiny_folders import planted_pair, tokenizer

D, KEPT = 32, 20
DIRECTIONS = torch.cat([torch.eye(D)[:KEPT], -torch.eye(D)[:KEPT]])  # ReLU keeps one of each pair


def write_sae_lens(folder):
    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=2 * KEPT, apply_b_dec_to_input=False))
    with torch.no_grad():
        sae.W_enc.copy_(DIRECTIONS.T)
        sae.W_dec.copy_(DIRECTIONS)
    sae.save_model(folder)


def write_sparsify(folder, **config):
    tensors = {
        "encoder.weight": DIRECTIONS,
        "encoder.bias": torch.zeros(2 * KEPT),
        "W_dec": DIRECTIONS.clone(),
        "b_dec": torch.zeros(D),
    }
    folder.mkdir()
    save_file(tensors, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": D, "k": 2 * KEPT, **config}))


def write_dictionary(folder):
    tensors = {
        "encoder.weight": DIRECTIONS.half(),
        "encoder.bias": torch.zeros(2 * KEPT),
        "decoder.weight": DIRECTIONS.T.half(),
        "bias": torch.zeros(D),
    }
    folder.mkdir()
    torch.save(tensors, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    planted_pair(folder)
    write_sae_lens(folder / "sae_lens")
    write_sparsify(folder / "sparsify")
    write_dictionary(folder / "dictionary_learning")
    write_sparsify(folder / "transcoder", transcode=True)
    write_sparsify(folder / "layers.1.mlp.act")
    return folder


def audit(folder, sae, code=0):
    arguments = ["--text", str(folder / "text.txt"), "--sae", str(folder / sae), "--site", "block1", "--json"]
    return printed(["audit", str(folder / "a"), *arguments], folder, code)


def left_out(folder):
    """Return the share of the stream's variance in the coordinates that the SAE does not keep."""
    model = load_model(folder / "a")
    chart = chart_of(model)
    rows, _ = token_rows(tokenizer(), 4096, positions_of(model.config), folder / "text.txt")
    batches = row_batches(rows, 8)
    x = torch.cat([streams_at(model, chart, b, ["block1"], mean_free=False)["block1"] for b in batches])
    x = leave_out_massive(x)[0]
    return float(x[:, KEPT:].square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.parametrize("sae", ["sae_lens", "sparsify", "dictionary_learning"])
def test_sae_of_every_library_keeps_its_error_once_it_is_moved(folder, sae):
    row = next(r for r in json.loads(audit(folder, sae))["audited"] if r["what"] == "SAE, NMSE")
    assert row["moved"] == pytest.approx(left_out(folder), rel=1e-3)
    assert row["as_it_is"] != pytest.approx(row["moved"], rel=0.02)


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        ("transcoder", "reconstructs something else than the residual stream"),
        ("layers.1.mlp.act", "reconstructs something else than the residual stream"),
        ("a", "no SAE in"),
    ],
)
def test_what_is_no_sae_on_the_stream_is_refused(folder, sae, message):
    assert message in json.loads(audit(folder, sae, code=2))["error"]
