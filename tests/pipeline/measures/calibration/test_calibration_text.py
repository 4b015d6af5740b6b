"""Rows of several lengths share one pass of a causal model; evidence of every setting is of its tokens."""

import pytest
import torch

from gaugeport.charts import chart_of
from gaugeport.pipeline.measures.calibration.evidence import Setting, moments_at
from gaugeport.pipeline.measures.calibration.text import Streams, Text, cut_text, record
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.streams.activations import streams_at
from gaugeport.streams.massive import massive_tokens

BOS = 7


def packed(n, length):
    rows = torch.randint(0, 7, (n, length), generator=torch.Generator().manual_seed(0))
    rows[:, 0] = BOS
    return rows


def test_every_length_begins_rows_with_the_prefix_and_repeats_no_text():
    rows = packed(20, 33)
    rows[:, 1:] = torch.arange(20 * 32).view(20, 32) + 100
    text = cut_text(rows, [4, 8, 16], [8, 64, 256])
    assert [tuple(g.shape) for g in text.groups] == [(16, 16), (16, 8), (32, 4)]
    assert text.levels == {4: [8, 64, 256], 8: [8, 64, 256], 16: [8, 64, 256]}
    assert all((group[:, 0] == BOS).all() for group in text.groups)
    used = torch.cat([group[:, 1:].flatten() for group in text.groups])
    assert torch.equal(used, torch.arange(len(used)) + 100)


def test_a_length_whose_rows_run_out_of_text_has_fewer_numbers_of_tokens():
    text = cut_text(packed(10, 33), [4, 16], [8, 64, 256])
    assert text.levels == {4: [8, 64], 16: [8, 64, 256]}  # 256 tokens in rows of 4 are 192 of text
    assert [tuple(g.shape) for g in text.groups] == [(16, 16)]  # rows of 16 hold those of 4
    with pytest.raises(ValueError, match="hold fewer than 4096 tokens"):
        cut_text(packed(10, 33), [16], [4096])


def test_one_pass_over_long_rows_gives_the_streams_of_short_rows():
    model = tiny_model("llama", torch.Generator().manual_seed(0)).float()
    chart, text = chart_of(model), cut_text(packed(20, 33), [4, 16], [8, 128])
    streams = record(model, chart, text, ["embed", "block1"], batch=32)
    rows = torch.cat([group[:, :4] for group in text.groups])
    alone = streams_at(model, chart, {"input_ids": rows}, ["embed", "block1"], skip_first=0)
    for site in alone:
        torch.testing.assert_close(streams.rows(site, 4).flatten(0, 1), alone[site], rtol=1e-5, atol=1e-5)


def planted_massive(n, length, d):
    """Streams with a massive first token, and others in mid-row and at the second place of a row."""
    x = torch.randn(n, length, d, generator=torch.Generator().manual_seed(1))
    at = [(i, 0) for i in range(n)] + [(2, 5), (3, 1)]
    for i, t in at:
        x[i, t, :3] += 1000.0
    return x, at


def test_massive_tokens_are_found_by_their_norm_wherever_they_are():
    x, at = planted_massive(8, 16, 12)
    assert {tuple(place) for place in massive_tokens(x).nonzero().tolist()} == set(at)


def test_moments_of_every_setting_are_those_of_its_tokens():
    x, at = planted_massive(8, 16, 12)
    y = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    text = Text((), {8: [16, 64], 16: [24, 128]})
    found = {
        setting: moments
        for settings, moments in moments_at(Streams([{"s": x}]), Streams([{"s": y}]), "s", text)
        for setting in settings
    }
    is_massive, is_first = torch.zeros(8, 16, dtype=torch.bool), torch.zeros(8, 16, dtype=torch.bool)
    is_massive[tuple(zip(*at, strict=True))], is_first[:, 0] = True, True
    for length, levels in text.levels.items():
        for n in levels:
            for left_out, out in (
                ("none", is_first & ~is_first),
                ("first", is_first),
                ("massive", is_massive),
            ):
                kept = ~out[:, :length].flatten()[:n].bool()
                a, b = (s[:, :length].flatten(0, 1)[:n][kept].double() for s in (x, y))
                expected = torch.corrcoef(torch.cat([b, a], 1).T)[:12, 12:]
                moments = found[Setting(length, left_out, n, "tokens")]
                assert moments.n == int(kept.sum())
                torch.testing.assert_close(moments.correlation(), expected, rtol=0, atol=1e-5)
    means = found[Setting(16, "first", 128, "row means")]
    a, b = (s[:, 1:].mean(1).double() for s in (x, y))
    torch.testing.assert_close(
        means.correlation(), torch.corrcoef(torch.cat([b, a], 1).T)[:12, 12:], rtol=0, atol=1e-5
    )
    assert Setting(16, "first", 24, "row means") not in found  # one row and a half is fewer than 4 samples


def test_settings_that_leave_out_the_same_tokens_share_their_evidence():
    x = torch.randn(8, 16, 12, generator=torch.Generator().manual_seed(1))
    x[:, 0] += 1000.0
    text = Text((), {16: [128]})
    shared = [settings for settings, _ in moments_at(Streams([{"s": x}]), Streams([{"s": x}]), "s", text)]
    assert [[s.left_out for s in settings] for settings in shared[:2]] == [["none"], ["first", "massive"]]
