"""Table b11 is measured on strings as long as those trained on, and on longer ones."""

from gaugeport.pipeline.config.sweeps import experiment, jobs_of
from gaugeport.pipeline.rotation.toy.strings import LONG_LENGTHS, PAD
from gaugeport.pipeline.stages.cohorts import longest_trained
from gaugeport.pipeline.tasks import lengths as task


def test_the_longer_strings_are_longer_than_any_trained_on(monkeypatch):
    job = min((c.job for c in jobs_of(experiment("b11"), "smoke")), key=longest_trained)
    lengths = []

    def accuracy(model, rows):
        lengths.append((rows["input_ids"] != PAD).sum(1))
        return {"valid": 0.5 + len(lengths)}

    monkeypatch.setattr(task, "accuracy", accuracy)
    monkeypatch.setattr(task, "load_own", lambda job, built: None)
    rows = task.measure(job, None)
    assert [(r["lengths"], r["value"], r["longest"]) for r in rows] == [
        ("trained", 1.5, longest_trained(job)),
        ("longer", 2.5, longest_trained(job)),
    ]
    trained, longer = lengths
    ends = int(longer.min()) - LONG_LENGTHS[0]  # what stands around the brackets
    assert 0 <= ends <= 2 and int(longer.max()) == LONG_LENGTHS[1] + ends
    assert int(trained.max()) <= longest_trained(job) + ends < int(longer.min())
