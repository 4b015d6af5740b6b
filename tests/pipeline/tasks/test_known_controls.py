"""Effects of random directions are measured by the first condition, and read by the others."""

from gaugeport.pipeline.measures.answer_slot import Slot
from gaugeport.pipeline.measures.steering_effects import RANDOM_CONTROLS
from smoke_jobs import measured, smoke_job


def test_second_measurement_runs_no_random_direction_and_gives_the_same_rows(store, monkeypatch):
    passes, log_odds = [], Slot.log_odds
    monkeypatch.setattr(Slot, "log_odds", lambda self, edit=None: passes.append(1) or log_odds(self, edit))
    job = smoke_job(
        "refusal_steering", "task.target=self", "gauge=identity", "matcher=none", "route=endpoint"
    )
    first, n_first = measured(job, store), len(passes)
    assert measured(job, store) == first
    # added with either sign, and ablated
    assert n_first - (len(passes) - n_first) == 3 * RANDOM_CONTROLS


def test_random_directions_are_measured_anew_for_other_prompts_and_strengths(store):
    def stored(*overrides):
        condition = ["gauge=identity", "matcher=none", "route=endpoint", "task.target=self"]
        measured(smoke_job("sentiment_steering", *condition, *overrides), store)
        return len(list((store.root / "control_effects-v1").glob("[!.]*")))

    before = stored()
    assert stored("task.heldout=3") == before + 1
    assert stored("task.strength=0.37") == before + 2
    assert stored("task.plants=2") == before + 2, "plants move the direction alone"
