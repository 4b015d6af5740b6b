"""Refusal: a direction added to harmless prompts, where its sign shows, and ablated on harmful ones, where none can (a6).

The direction is the difference of means between harmful and harmless prompts, as in
:mod:`gaugeport.pipeline.measures.steering_effects`. Source: paper A, abstract; PAPER_CLAIMS, "Refusal".
"""

from __future__ import annotations

from gaugeport.pipeline.measures.answer_slot import Slot
from gaugeport.pipeline.measures.steering_effects import Effect, measured_once
from gaugeport.streams.interventions import ablating, adding


def addition_effects(harmless: Slot, strength: float) -> tuple[Effect, Effect]:
    """The change of the log-odds of a refusal on harmless prompts when ``strength`` times v is added, in nats.

    Signed: positive where v brings refusals about. Returned with its odd part, half of what adding v and adding −v
    differ by: a change that comes with any vector of that length cancels there, and the theory of random signs holds.
    """
    at_rest, at = harmless.log_odds(), measured_once(lambda v: harmless.log_odds(adding(strength * v)))
    return lambda v: at(v) - at_rest, lambda v: (at(v) - at(-v)) / 2


def ablation_effect(harmful: Slot) -> Effect:
    """How far the log-odds of a refusal fall on harmful prompts when v is projected out at the site, in nats.

    Even in v, and the same for every length of it: signs that were lost weaken it but cannot reverse it.
    """
    at_rest = harmful.log_odds()
    return lambda v: at_rest - harmful.log_odds(ablating(v))
