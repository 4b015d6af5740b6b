"""Refusal: the sign of an addition, the evenness of an ablation, and where its prompts come from."""

import json
from types import SimpleNamespace

import pytest
import torch

from gaugeport.charts import chart_of
from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.data import mini_tokenizer, slot_prompt
from gaugeport.pipeline.execution.jobs import run_job
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.measures.answer_slot import Prompts, Slot
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.pipeline.measures.labelled_prompts import labelled_prompts
from gaugeport.pipeline.measures.refusal_effects import ablation_effect, addition_effects
from gaugeport.pipeline.tasks import refusal as task
from gaugeport.pipeline.tasks.shared.directions import _requests
from gaugeport.streams.interventions import adding
from places import REAL


@pytest.fixture(scope="module")
def slot():
    g = torch.Generator().manual_seed(0)
    model = tiny_model("llama", g)
    ids = torch.randint(3, 64, (6, 7), generator=g)
    prompts = Prompts(ids, torch.ones_like(ids), torch.full((6,), 6))
    return Slot(model, chart_of(model), "block0", [prompts], (torch.tensor([5, 6]), torch.tensor([7])))


def test_an_addition_is_signed_and_measured_from_rest(slot):
    v = torch.randn(32, generator=torch.Generator().manual_seed(1))
    effect, odd = addition_effects(slot, 0.01)
    assert torch.equal(effect(v), slot.log_odds(adding(0.01 * v)) - slot.log_odds())
    assert torch.equal(effect(torch.zeros(32)), torch.zeros(6, dtype=torch.float64))
    forth, back = effect(v).mean(), effect(-v).mean()
    assert forth * back < 0 and abs(forth + back) < 0.2 * abs(forth), "small additions are odd in v"
    assert torch.equal(odd(v), -odd(-v)) and odd(v).mean() == pytest.approx(float(forth - back) / 2)
    far, far_odd = addition_effects(slot, 3.0)
    assert abs(far(v).mean() - far_odd(v).mean()) > 0.1 * abs(far(v).mean()), (
        "large additions are not, but their odd part is"
    )


def test_an_ablation_is_even_and_independent_of_length(slot):
    v = torch.randn(32, generator=torch.Generator().manual_seed(2))
    effect = ablation_effect(slot)
    assert torch.equal(effect(v), effect(-v))
    assert torch.equal(effect(v), effect(4 * v)), "a power of two changes only the exponent"
    assert effect(v).abs().mean() > 1e-3
    assert (effect(v) - effect(torch.roll(v, 1))).abs().max() > 1e-3, "the direction counts"


class FakeSlot(list):
    """The texts of a slot, which have log-odds."""

    def log_odds(self):
        return f"log-odds of {self[0]}"


@pytest.mark.parametrize("silent", [True, False])
def test_job_adds_on_harmless_prompts_and_ablates_on_harmful_ones(monkeypatch, silent):
    """The task passes the right prompts to the measures, which have their own tests."""
    prompts = SimpleNamespace(heldout_negative=["bake"], heldout_positive=["steal"])
    v = SimpleNamespace(
        prompts=prompts,
        of_a=torch.ones(3),
        of_b=torch.ones(3),
        slot=lambda model, texts: FakeSlot(texts),
        random_controls=list,
        with_known_controls=lambda built, name, effect: effect,
    )
    seen = []
    for name, result in (("addition_effects", ("whole", "odd")), ("ablation_effect", "even")):
        monkeypatch.setattr(task, name, lambda slot, *a, n=name, r=result: seen.append((n, slot)) or r)
    rows = {"whole": [{"metric": "no_effect_to_transport", "value": float(silent)}]}
    monkeypatch.setattr(
        task,
        "transported_effect_rows",
        lambda effect, *a, **k: seen.append((effect, k)) or rows.get(effect, []),
    )
    monkeypatch.setattr(task, "strength_sweep_rows", lambda slot, *a: seen.append(("sweep", slot)) or [])
    monkeypatch.setattr(task, "load_transfer", lambda *a: SimpleNamespace(b="B", residuals=list))
    monkeypatch.setattr(task, "refusal_directions", lambda *a: v)
    monkeypatch.setattr(task, "with_gauge", lambda transfer, directions, rows: rows)
    monkeypatch.setattr(task, "class_gap_rows", lambda *slots: seen.append(("classes", slots)) or [])
    found = task.measure(SimpleNamespace(task={"strength": 1.0, "sweep": []}), None)
    assert found == rows["whole"]
    assert [s for s in seen if s[0] in ("addition_effects", "ablation_effect", "sweep")] == [
        ("addition_effects", ["bake"]),
        ("ablation_effect", ["steal"]),
        ("sweep", ["bake"]),
    ]
    assert ("classes", ("log-odds of steal", "log-odds of bake")) in seen, "the positive class comes first"
    assert [s for s in seen if s[0] in rows or s[0] in ("odd", "even")] == [
        ("whole", {}),
        ("odd", {"silent": silent}),
        ("even", {"even": True, "silent": silent}),
    ]


def job(*overrides):
    fixed = [
        "profile=smoke",
        "tracker=none",
        "gauge=identity",
        "matcher=none",
        "route=endpoint",
        "task=refusal",
    ]
    return from_config(compose_config([*fixed, *overrides]), ()).job


def instructions(path, words):
    path.write_text("".join(json.dumps({"instruction": f"{words} number {i}"}) + "\n" for i in range(20)))
    return path


def test_mini_requests_stop_where_the_answer_begins():
    found, template, source = _requests(job())
    prompts = labelled_prompts(found, "request", mini_tokenizer(), template, 20, 10, source)
    assert all(t.endswith("assistant :") for t in (*prompts.positive, *prompts.heldout_negative))
    label = {slot_prompt(d): d.label for s in ("train", "heldout") for d in found.labelled("request", s)}
    assert {label[t] for t in (*prompts.positive, *prompts.heldout_positive)} == {1}
    assert {label[t] for t in (*prompts.negative, *prompts.heldout_negative)} == {0}


def test_labels_follow_from_the_setting_of_a_prompt_file(tmp_path):
    bad, good = instructions(tmp_path / "bad.jsonl", "steal"), instructions(tmp_path / "good.jsonl", "bake")
    both = job(f"task.harmful={bad}", f"task.harmless={good}")
    found, template, source = _requests(both)
    prompts = labelled_prompts(found, "request", mini_tokenizer(), template, 9, 4, source)
    assert all(t.startswith("User: steal") for t in prompts.positive + prompts.heldout_positive)
    assert all(t.endswith("\nAssistant:") for t in prompts.negative)
    assert job_id(both) != job_id(job(f"task.harmful={good}", f"task.harmless={bad}"))
    with pytest.raises(ValueError, match=r"task\.harmful is given alone"):
        job(f"task.harmful={bad}")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real artefacts at {REAL}")
@pytest.mark.parametrize(
    "task",
    [
        [
            "task=refusal",
            f"task.harmful={REAL / 'prompts' / 'harmful.jsonl'}",
            f"task.harmless={REAL / 'prompts' / 'harmless.jsonl'}",
        ],
        ["task=steering_sentiment", f"task.reviews={REAL / 'sentiment' / 'rt_polarity.csv'}"],
    ],
    ids=["refusal", "sentiment"],
)
def test_a_model_that_cannot_refuse_has_no_effect_to_transport(tmp_path_factory, task):
    outputs = tmp_path_factory.getbasetemp() / "stories"  # both tasks require the same run
    stories = [
        *("profile=smoke", "tracker=none", "data=text", "data.documents=300", "training.run.lr=1e-3"),
        *("gauge=identity", "matcher=none", "route=endpoint", "task.plants=5"),
        *(
            f"model.path={REAL / 'models' / 'stories260K'}",
            f"data.path={REAL / 'text' / 'tinystories.jsonl'}",
        ),
    ]
    c = from_config(compose_config([*stories, *task, f"paths.outputs={outputs}"]), ())
    rows = {r["metric"]: r["value"] for r in run_job(c).rows}
    assert (
        rows["no_effect_to_transport"] == 1 and "retention" not in rows and "reversal_probability" not in rows
    )
    assert abs(rows["effect_se_ratio"]) > 5 > rows["effect_control_ratio"], (
        "by the first ratio alone it would be an effect"
    )
    assert rows["index_accuracy"] < 0.2 and rows["loss_A"] < 3
