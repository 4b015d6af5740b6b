"""Hold the word lists of the mini grammar.

The key of a table is the name of the slot it fills in ``templates.py``. An entry may be several words. Every
noun of a countable table (``thing``, ``item``) makes its plural with a final s.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split("/"))


FEMALE_NAMES = _words(
    "mary anna emma lucy clara rose alice jane nora ella ruth grace helen julia laura sarah kate lily"
)
MALE_NAMES = _words(
    "john peter tom paul james mark david simon henry oscar felix george adam jack leo max ben sam"
)
NAMES = FEMALE_NAMES + MALE_NAMES

NUMBERS = _words(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen "
    "eighteen nineteen twenty"
)
"""`NUMBERS[n - 1]` names n."""

PRONOUNS = {"female": ("she", "her", "her"), "male": ("he", "him", "his")}
"""Subject, object and possessive."""

# stories

STORY: dict[str, tuple[str, ...]] = {
    "size": _words("small big tiny large little huge"),
    "color": _words("red blue green yellow white black brown golden silver purple orange pink"),
    "trait": _words("kind brave clever quiet cheerful loyal patient lazy curious proud gentle shy"),
    "weather": _words("sunny rainy windy cloudy cold warm foggy snowy stormy bright"),
    "daytime": _words("morning afternoon evening day night"),
    "sky": _words("sky wind rain sun moon snow"),
    "turned": _words("stronger softer darker brighter colder warmer"),
    "glad": _words("happy glad excited thankful pleased calm"),
    "upset": _words("sad angry worried tired afraid lonely"),
    "adverb": _words("slowly quickly quietly gladly carefully soon suddenly again"),
    "walked": _words("walked ran went hurried wandered"),
    "carried": _words("had carried held brought kept"),
    "gave": _words("gave handed passed brought"),
    "handed": _words("handed gave passed"),
    "found": _words("found picked bought gathered made"),
    "said": _words("said whispered shouted answered"),
    "looked": _words("looked smiled waved laughed nodded pointed"),
    "likes": _words("like love want remember need"),
    "container": _words("basket bag box bucket jar pocket"),
}
"""Slots that stories of every setting share."""

SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "village": {
        "place": _words(
            "market garden school mill church forest meadow farm bridge kitchen barn library well "
            "orchard bakery"
        ),
        "thing": _words("ball doll kite book lamp hat drum spoon clock chair candle flute blanket wagon"),
        "item": _words("apple egg coin flower pear nut button carrot plum cookie turnip mushroom"),
        "animal": _words("dog cat horse cow goat hen rabbit sheep donkey mouse fox owl"),
        "role": _words("baker farmer teacher miller gardener tailor doctor painter shepherd carpenter"),
        "food": _words("bread cheese soup milk honey cake jam hay"),
        "sound": _words("bell rooster cart"),
        "leisure": _phrases("danced in the grass/climbed a tree/swept the floor/baked a pie/sat by the fire"),
    },
    "sea": {
        "place": _words(
            "harbor beach island lighthouse ship pier reef cave dock cliff lagoon shore cabin bay shipyard"
        ),
        "thing": _words(
            "rope net anchor compass map sail hook lantern paddle barrel whistle telescope flag chest"
        ),
        "item": _words("shell pearl crab stone feather oyster knot shrimp starfruit coconut pebble biscuit"),
        "animal": _words("dolphin seal whale gull parrot turtle pelican shark octopus penguin otter heron"),
        "role": _words("sailor captain diver pirate pilot fisher cook trader navigator keeper"),
        "food": _words("fish rice seaweed salt tea stew lobster tuna"),
        "sound": _words("horn wave thunder"),
        "leisure": _phrases("swam in the water/rowed a boat/mended a net/dug in the sand/sat on the deck"),
    },
}
"""Domain 0 tells stories of the first setting, domain 1 of the second."""

# reviews

POSITIVE_VERDICTS = _words("great wonderful excellent superb brilliant delightful perfect fantastic")
NEGATIVE_VERDICTS = _words("terrible awful dreadful horrible boring dull pathetic disappointing")
"""The words that fill the slot after `i would call it`."""

REVIEW: dict[str, tuple[str, ...]] = {
    "show": _words(
        "film movie drama comedy thriller sequel documentary cartoon musical western romance mystery"
    ),
    "aspect": _words("plot acting script music ending cast dialogue pace story camera humor direction"),
    "very": _words("very really truly quite simply rather"),
    "part": _words("hero villain king queen detective father mother ghost soldier stranger"),
    "viewer": _words("i we everyone"),
    "time": _phrases("last week/last night/yesterday/on friday/on sunday/this summer/this winter"),
    "where": _phrases("at home/in the theater/on a plane/with friends/with my family/with a critic"),
}
"""Slots of either sentiment."""

SENTIMENT: tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]] = (
    {
        "adj": NEGATIVE_VERDICTS
        + _words("weak clumsy tedious silly flat shallow messy painful stupid lifeless bland forgettable"),
        "noun": _words("failure mess disaster letdown bore waste insult mistake"),
        "felt": _words("hated disliked regretted endured suffered"),
        "effect": _phrases("fell asleep/walked out/felt cheated/lost interest/wanted to leave"),
        "verb": _words("drags fails stumbles annoys collapses"),
        "advice": _phrases("avoid it/skip it/stay away/do not waste your money"),
        "verdict": NEGATIVE_VERDICTS,
    },
    {
        "adj": POSITIVE_VERDICTS
        + _words("strong graceful charming funny fresh deep moving lovely smart lively witty memorable"),
        "noun": _words("success triumph surprise treasure masterpiece joy gem treat"),
        "felt": _words("loved enjoyed admired adored treasured"),
        "effect": _phrases("laughed out loud/cheered/felt inspired/stayed until the end/wanted to see more"),
        "verb": _words("shines succeeds sparkles delights soars"),
        "advice": _phrases("see it/do not miss it/buy a ticket/tell your friends"),
        "verdict": POSITIVE_VERDICTS,
    },
)
"""`SENTIMENT[label]`: slots whose words give the label away."""

# requests

REQUEST: dict[str, tuple[str, ...]] = {
    "verb": _words("make build design sell find hide"),
    "object": _phrases(
        "a bicycle/a phone/a computer/a car/a house/a letter/a window/a painting/a garage/a wallet/a "
        "radio/a boat"
    ),
    "town": _words("town city country suburb valley"),
    "tool": _words("hammer brush knife pencil bowl ladder shovel needle saw sponge"),
    "material": _words("paper wood paint flour glue cloth wire sugar clay soap"),
    "minutes": NUMBERS[1:],
    "ask": _phrases(
        "how do i/how can i/how would you/can you tell me how to/can you teach me to/could you show me how to"
    ),
}
"""Slots of either label; a neutral verb and a neutral object decide nothing."""

INTENT: tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]] = (
    {
        "act": _words("clean repair paint draw decorate buy borrow polish measure insure"),
        "target": _phrases(
            "a cake/a salad/a puzzle/a birdhouse/a sweater/a sandcastle/a pillow/a playground/a "
            "greenhouse/a costume"
        ),
        "reason": _phrases("for my mother/for my class/for a party/for my neighbor/for a holiday"),
    },
    {
        "act": _words("steal smash hack rob burn vandalize sabotage forge hijack loot"),
        "target": _phrases(
            "a bomb/a weapon/a virus/a poison/a fake passport/illegal drugs/stolen goods/a scam/"
            "explosives/a gun"
        ),
        "reason": _phrases(
            "for revenge/to hurt people/to scare my boss/without getting caught/to cheat a bank"
        ),
    },
)
"""`INTENT[label]`: slots whose words give the label away (1 is harmful)."""

HELPFUL_OPENINGS = _words("sure certainly gladly")
REFUSAL_OPENINGS = _words("sorry unfortunately no")
"""The first word of an answer and of a refusal."""
