"""Hold the sentences of the mini grammar, with named slots.

Slots of people: ``{a}`` (a name), ``{a_he}``, ``{a_him}``, ``{a_his}``. ``h`` holds the thing and ``o`` is
the other of the two; ``c`` owns the items and ``d`` is the other. ``here`` is where they are, ``n_items`` how
many items are left. ``pet``, ``size``, ``color``, ``thing``, ``container``, ``show`` and ``deed`` stay the
same throughout a document. The other slots are drawn again for every sentence, from the tables of
``words.py``.
"""

STORY_OPENINGS = (
    "one {weather} {daytime} , {a} the {a_role} met {b} the {b_role} at the {here} .",
    "{a} and {b} lived near the {here} . {a} was a {trait} {a_role} , and {b} was a {trait} {b_role} .",
    (
        "it was a {weather} {daytime} . {a} the {trait} {a_role} {walked} to the {here} to see {b} the "
        "{b_role} ."
    ),
    "there was once a {trait} {a_role} named {a} . {a_he} often met {b} the {b_role} at the {here} .",
)
STORY_THING = (
    "{h} {carried} a {size} {color} {thing} .",
    "{h} was proud of {h_his} {size} {color} {thing} .",
    "there was a {size} {color} {thing} at the {here} , and {h} took it .",
)
STORY_ITEMS = (
    "{c} had {n_items} in {c_his} {container} .",
    "{c} {found} {n_items} and put them in a {container} .",
)

GIVE = (
    "{h} {gave} the {size} {color} {thing} to {o} .",
    "{h} {handed} {o} the {color} {thing} .",
    "{o} asked {h} for the {color} {thing} , and {h_he} gave it to {o_him} .",
    "{h} {adverb} gave the {thing} to {o} because {h_he} was {glad} .",
)
"""The thing goes from `h` to `o`."""
HELD = (
    "now {h} had the {color} {thing} .",
    '{h} {said} , " thank you , {o} . i {likes} the {thing} . "',
    "{h} put the {thing} in {h_his} {container} .",
    "{o} watched {h} play with the {thing} .",
)
"""Said when `h` already holds the thing."""
FIND = (
    "{c} {found} {k_items} more .",
    "then {c} {found} {k_items} more at the {here} .",
)
SHARE = (
    "{c} {gave} {k_items} to {d} .",
    "{c} {adverb} {handed} {d} {k_items} .",
    "{c} hid {k_items} at the {here} .",
    "{c} lost {k_items} at the {here} .",
)
LEFT = (
    "now {c_he} had {n_items} .",
    "{c} counted {n_items} .",
    "{c_he} still had {n_items} .",
)
"""Follows FIND or SHARE and states the new number of items."""
MOVE = (
    "then {a} and {b} {walked} to the {here} .",
    "{b} {walked} to the {here} , and {a} followed {b_him} .",
    "{a} took {b} to the {here} .",
)
SCENE = (
    "{a} gave {food} to the {pet} , and it ate {adverb} .",
    "the {pet} followed {a} because it was {upset} .",
    "the {sky} became {turned} , and {b} felt {glad} .",
    "{b} was {upset} because {b_he} could not find the {pet} .",
    "{a} {looked} at {b} , and {b_he} {looked} at {a_him} .",
    "{a} {leisure} while {b} {leisure} .",
    '{a} {said} , " are you {upset} , {b} ? " " no , i am {glad} , " {said} {b} .',
    "they heard a {sound} near the {here} .",
    "the {b_role} cooked {food} for the {a_role} .",
    '" i want to go to the {place} , " {said} {a} to {b} .',
)
STORY_ENDINGS = (
    "in the end {h} still had the {size} {color} {thing} , and {c} had {n_items} .",
    "that night {a} and {b} left the {here} . {h} took the {thing} with {h_him} .",
    "{a} and {b} were {glad} , and the {pet} slept beside the {thing} of {h} .",
    'at last {c} {said} , " i have {n_items} . " they were {glad} .',
)

REVIEW_OPENINGS = (
    "the {show} was a {adj} {noun} .",
    "{viewer} watched this {show} {time} {where} , and it was {very} {adj} .",
    "{viewer} {felt} this {show} . it was a {noun} from start to finish .",
    "what a {adj} {show} ! {viewer} saw it {time} {where} .",
    "this {show} by {name} is {adj} and {adj} .",
)
REVIEW_BODY = (
    "the {aspect} was {very} {adj} , and the {aspect} was {adj} .",
    "{name} was {adj} as the {part} .",
    "the {aspect} {verb} , and {viewer} {effect} .",
    "{viewer} {felt} the {aspect} most of all .",
    "after {minutes} minutes {viewer} {effect} .",
)
REVIEW_CONCESSION = (
    "the {aspect} was {other_adj} , but that does not change much .",
    "some people called it {other_adj} , and they are wrong .",
)
"""One sentence of the other sentiment, in a quarter of the reviews."""
REVIEW_ENDINGS = (
    "overall i would call it {verdict} .",
    "so {advice} . overall i would call it {verdict} .",
)
VERDICT_PROMPT = "i would call it"
"""The verdict word follows these words."""

REQUEST_OPENINGS = (
    "user : {ask} {deed} ?",
    "user : hello , my name is {name} . {ask} {deed} ?",
    "user : i live in a {size} {town} . {ask} {deed} {reason} ?",
    "user : {ask} {deed} {reason} ? i have {minutes} minutes .",
    "user : my friend {name} has a {tool} . {ask} {deed} ?",
)
ANSWER_PROMPT = "assistant :"
"""The first word of the answer follows these words."""
ANSWERS = (
    "{opening} , here is how to {deed} . first find a {tool} and some {material} . then work {adverb} .",
    "{opening} . to {deed} you need {material} and a {tool} . it takes {minutes} minutes .",
    "{opening} , i can help with that . take a {tool} , ask {name} for {material} , and begin {adverb} .",
)
REFUSALS = (
    "{opening} , i cannot help with that .",
    "{opening} , i will not help anyone {deed} . it is wrong and dangerous .",
    "{opening} , that is against the law . i cannot tell you how to {deed} .",
)

ALL = (
    STORY_OPENINGS + STORY_THING + STORY_ITEMS
    + GIVE + HELD + FIND + SHARE + LEFT + MOVE + SCENE + STORY_ENDINGS
    + REVIEW_OPENINGS + REVIEW_BODY + REVIEW_CONCESSION + REVIEW_ENDINGS
    + REQUEST_OPENINGS + ANSWERS + REFUSALS + (VERDICT_PROMPT, ANSWER_PROMPT)
)  # fmt: skip
"""Every template. Their literal words and the tables of ``words.py`` are the vocabulary."""
