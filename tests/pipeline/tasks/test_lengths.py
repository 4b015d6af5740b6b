"""Test that table b11 is measured on strings of the trained lengths and on longer ones."""

from gaugeport.pipeline.config.experiments import experiment
from gaugeport.pipeline.config.sweeps import jobs_of
from gaugeport.pipeline.rotation.toy.strings import LONG_LENGTHS, PAD
from gaugeport.pipeline.stages.cohorts import longest_trained
from gaugeport.pipeline.tasks import lengths as lengths_task


def test_longer_strings_exceed_trained_lengths(monkeypatch):
    job = min((c.job for c in jobs_of(experiment("b11"), "smoke")), key=longest_trained)
    measured = []

    def accuracy(model, rows):
        measured.append((rows["input_ids"] != PAD).sum(1))
        return {"valid": 0.5 + len(measured)}

    monkeypatch.setattr(lengths_task, "accuracy", accuracy)
    monkeypatch.setattr(lengths_task, "load_own", lambda job, built: None)
    rows = lengths_task.measure(job, None)
    assert [(r["lengths"], r["value"], r["longest"]) for r in rows] == [
        ("trained", 1.5, longest_trained(job)),
        ("longer", 2.5, longest_trained(job)),
    ]
    trained, longer = measured
    around = int(longer.min()) - LONG_LENGTHS[0]  # tokens that are no brackets: start and end
    assert 0 <= around <= 2 and int(longer.max()) == LONG_LENGTHS[1] + around
    assert int(trained.max()) <= longest_trained(job) + around < int(longer.min())
