"""Streams kept in files come back as they were, batch by batch."""

import torch

from gaugeport.streams.kept import KeptStreams


def test_batches_come_back_bit_for_bit_however_often(tmp_path):
    generator = torch.Generator().manual_seed(0)
    sites = ["embed", "block0"]
    batches = [{s: torch.randn(n, 6, generator=generator) for s in sites} for n in (3, 0, 5)]
    kept = KeptStreams(tmp_path, sites)
    for batch in batches:
        kept.append(batch)
    for _ in range(2):
        for back, batch in zip(kept, batches, strict=True):
            assert list(back) == sites and all(torch.equal(back[s], batch[s]) for s in sites)
    assert sorted((p.name, p.stat().st_size) for p in tmp_path.iterdir()) == [
        ("block0.float32", 8 * 6 * 4),
        ("embed.float32", 8 * 6 * 4),
    ]


def test_no_batch_and_empty_batches_come_back_too(tmp_path):
    kept = KeptStreams(tmp_path, ["embed"])
    assert list(kept) == []
    kept.append({"embed": torch.empty(0, 4)})
    (back,) = kept
    assert back["embed"].shape == (0, 4)
