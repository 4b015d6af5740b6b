"""Transfer jobs: the models that each target pairs."""

from types import SimpleNamespace

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.stages import models
from gaugeport.pipeline.stages.stage import Built
from gaugeport.pipeline.tasks.shared import transfer


def test_which_models_are_paired_for_each_target(monkeypatch):
    monkeypatch.setattr(models, "checkpoints", lambda run: {5: run, 3: "earlier"})
    monkeypatch.setattr(transfer, "load_model", lambda path, **k: path)
    monkeypatch.setattr(transfer, "read_tokenizer", lambda data: None)
    monkeypatch.setattr(transfer, "chart_of", lambda model: None)
    monkeypatch.setattr(transfer, "middle_site", lambda model, chart: "block1")
    monkeypatch.setattr(transfer, "heldout_rows", lambda data: (None, None))

    def pair_of(target):
        settings = [f"task.target={target}", "gauge=signed_permutation", "matcher=oracle", "route=endpoint"]
        job = from_config(
            compose_config(["experiment=sentiment_steering", "profile=smoke", *settings]), ()
        ).job
        stages = {"data": None, "base": "base", "A": "A", "B": "B", "other": "independent"}
        pair = transfer.load_models(job, Built(stages, None))
        return pair.a, pair.b, pair.step

    assert pair_of("identical") == ("A", "A", 5) and pair_of("finetuned") == ("A", "B", 5)
    assert pair_of("finetuned_back") == ("B", "A", 5) and pair_of("independent") == ("A", "independent", 5)
    assert pair_of("self") == ("base", "base", 0), "nothing is trained"


def test_massive_tokens_are_counted_at_the_sites_that_the_evidence_reads():
    evidence = SimpleNamespace(
        massive_rows=lambda: [
            {"site": site, "metric": "massive_tokens", "value": n}
            for site, n in (("block0", 3.0), ("block1", 5.0))
        ]
    )
    for kind, counted in (("site", [5.0]), ("pooled", [8.0]), ("both", [8.0]), ("weights", [])):
        own = object.__new__(transfer.Transfer)
        vars(own).update(
            condition=SimpleNamespace(evidence=evidence),
            where={"evidence": kind, "site": "block1"},
            site="block1",
        )
        assert [row["value"] for row in own._massive_rows()] == counted, kind
        assert all("site" not in row for row in own._massive_rows()), "the job's rows name their site"
