"""Define two effects of a refusal direction (table a6): adding it has a sign, ablating it has none.

The direction is the difference of means between harmful and harmless prompts, as in ``steering_effects``. It
is added on harmless prompts and ablated on harmful ones. Source: paper A, abstract.
"""

from __future__ import annotations

from gaugeport.pipeline.measures.answer_slot import Slot
from gaugeport.pipeline.measures.steering_effects import Effect, measured_once
from gaugeport.streams.interventions import ablating, adding


def addition_effects(harmless: Slot, strength: float) -> tuple[Effect, Effect]:
    """Return the effect of adding a vector on harmless prompts, and the odd part of this effect.

    Args:
        harmless: the slot of harmless prompts.
        strength: factor of the vector.

    Returns:
        The change of the log-odds of a refusal in nats, positive where the vector causes refusals. And half
        of the difference between adding v and adding −v: a change that any vector of this length causes
        cancels there, so the theory of random signs holds.
    """
    at_rest, at = harmless.log_odds(), measured_once(lambda v: harmless.log_odds(adding(strength * v)))
    return lambda v: at(v) - at_rest, lambda v: (at(v) - at(-v)) / 2


def ablation_effect(harmful: Slot) -> Effect:
    """Return the fall of a refusal's log-odds, in nats, when a vector is projected out on harmful prompts.

    It is even in the vector and does not depend on its length: lost signs can weaken it but not reverse it.
    """
    at_rest = harmful.log_odds()
    return lambda v: at_rest - harmful.log_odds(ablating(v))
