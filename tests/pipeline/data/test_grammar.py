"""The mini grammar: deterministic, within its vocabulary, labelled by its words, different by domain."""

import hashlib
import random
import re
from collections import Counter

import pytest

from gaugeport.pipeline.data import (
    FEMALE_NAMES,
    HELPFUL_OPENINGS,
    MALE_NAMES,
    NAMES,
    NEGATIVE_VERDICTS,
    NUMBERS,
    POSITIVE_VERDICTS,
    REFUSAL_OPENINGS,
    generate,
    slot_prompt,
    vocabulary,
)
from gaugeport.pipeline.data.corpus.words import INTENT, PRONOUNS, SENTIMENT, SETTINGS
from gaugeport.texts import Document

KINDS = ("story", "review", "request")


def sample(kind: str, n: int = 2000, seed: int = 0, domain: int | None = None) -> list[Document]:
    return generate(kind, n, random.Random(seed), domain)


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_documents(kind: str) -> None:
    state = random.getstate()
    assert sample(kind, 50) == sample(kind, 50)
    assert sample(kind, 50) != sample(kind, 50, seed=1)
    assert random.getstate() == state


def test_documents_are_pinned() -> None:
    """A change of the grammar changes every artefact trained on it; if it is meant, update the digest."""
    texts = [
        document.text for kind in KINDS for domain in (0, 1) for document in sample(kind, 20, domain=domain)
    ]
    digest = hashlib.sha256("\n".join([*texts, *vocabulary()]).encode()).hexdigest()
    assert digest[:16] == "4d85023619b8e05f"


def test_every_word_is_in_the_vocabulary_and_every_word_occurs() -> None:
    documents = sample("story", 4000) + sample("story", 4000, domain=1) + sample("review") + sample("request")
    seen = {word for document in documents for word in document.text.split()}
    assert seen == set(vocabulary())
    assert len(seen) >= 450
    assert vocabulary() == sorted(set(vocabulary()))


@pytest.mark.parametrize("kind", KINDS)
def test_form(kind: str) -> None:
    documents = sample(kind)
    assert len({document.text for document in documents}) == len(documents)
    for document in documents:
        assert document.text == " ".join(document.text.split()).lower()
        assert re.fullmatch(r"([a-z]+|[.,!?:\"])( ([a-z]+|[.,!?:\"]))*", document.text)
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", document.text)


def test_names_and_numbers() -> None:
    assert len(NAMES) >= 30 and len(set(NAMES)) == len(NAMES)
    assert len(NUMBERS) == 20 and NUMBERS[0] == "one" and NUMBERS[-1] == "twenty"
    counts = Counter(word for document in sample("story") for word in document.text.split())
    assert all(counts[word] > 0 for word in (*NAMES, *NUMBERS))


@pytest.mark.parametrize("domain", [0, 1])
def test_stories_keep_to_their_two_people_and_their_pronouns(domain: int) -> None:
    for document in sample("story", 500, domain=domain):
        said = document.text.split()
        people = {word for word in said if word in NAMES}
        assert len(people) == 2
        for gender, names in (("female", FEMALE_NAMES), ("male", MALE_NAMES)):
            if not people & set(names):
                assert not set(said) & set(PRONOUNS[gender])


def test_counts_follow_from_what_was_found_and_given() -> None:
    """`owner had n items … found k … now had n + k`: the arithmetic of every story holds."""
    number = {word: i for i, word in enumerate(NUMBERS, start=1)}
    gain = r"(?:found|picked|bought|gathered|made)"
    loss = r"(?:gave|handed|passed|brought|lost|hid)"
    checked = 0
    for document in sample("story", 500):
        item = next(i for i in SETTINGS["village"]["item"] if re.search(rf"\b{i}s?\b", document.text))
        held = None
        for sentence in document.text.split(" . "):
            counted = re.search(rf"\b({'|'.join(NUMBERS)}) {item}s?\b", sentence)
            if counted is None:
                continue
            n = number[counted[1]]
            if held is None:
                held = n
            elif " more" in sentence and re.search(gain, sentence):
                held += n
            elif re.search(rf"\b{loss}\b", sentence) and "the end" not in sentence:
                held -= n
            else:
                assert n == held, document.text
                checked += 1
    assert checked > 300


def test_settings_differ_in_nouns_and_share_the_rest() -> None:
    seen = [{w for d in sample("story", domain=domain) for w in d.text.split()} for domain in (0, 1)]
    shared = seen[0] & seen[1]
    assert set(NAMES) | set(NUMBERS) | {"the", "gave", "to", "and"} <= shared
    for domain, setting in enumerate(("village", "sea")):
        own = {w for slot in ("place", "thing", "animal") for w in SETTINGS[setting][slot]}
        assert own <= seen[domain]
        assert not own & seen[1 - domain]
    assert {d.domain for d in sample("story", 10, domain=1)} == {1}
    assert {d.domain for d in sample("story", 10)} == {0}


@pytest.mark.parametrize("kind", ["review", "request"])
def test_labels_are_balanced(kind: str) -> None:
    assert Counter(document.label for document in sample(kind, 1000)) == {0: 500, 1: 500}


def test_sentiment_is_in_the_words_and_in_the_verdict() -> None:
    negative, positive = ({w for slot in ("adj", "noun", "felt") for w in table[slot]} for table in SENTIMENT)
    for document in sample("review"):
        words = document.text.split()
        score = sum(w in positive for w in words) - sum(w in negative for w in words)
        assert int(score > 0) == document.label
        prompt = slot_prompt(document)
        verdict = document.text[len(prompt) :].split()[0]
        assert prompt.endswith("i would call it")
        assert verdict in (POSITIVE_VERDICTS if document.label else NEGATIVE_VERDICTS)


def test_harm_is_in_the_words_of_the_request_and_decides_the_answer() -> None:
    tables = [set().union(*table.values()) for table in INTENT]
    for document in sample("request"):
        prompt = slot_prompt(document)
        found = [any(f" {phrase} " in prompt for phrase in phrases) for phrases in tables]
        assert found == [document.label == 0, document.label == 1], document.text
        opening = document.text[len(prompt) :].split()[0]
        assert prompt.endswith("assistant :")
        assert opening in (REFUSAL_OPENINGS if document.label else HELPFUL_OPENINGS)


@pytest.mark.parametrize("kind", ["story", "review", "request"])
def test_a_poorer_grammar_uses_fewer_of_the_same_words(kind: str) -> None:
    used = [
        {
            word
            for document in generate(kind, 2000, random.Random(0), richness=r)
            for word in document.text.split()
        }
        for r in (0.1, 0.3, 1.0)
    ]
    assert len(used[0]) < len(used[1]) < len(used[2]) and used[0] | used[1] <= set(vocabulary())
    for richness in (0.0, 1.1):
        with pytest.raises(ValueError, match=f"richness={richness}; allowed: above 0, at most 1"):
            generate(kind, 2, random.Random(0), richness=richness)


def test_errors() -> None:
    with pytest.raises(ValueError, match="kind='poem'; allowed: story, review, request"):
        sample("poem", 1)
    with pytest.raises(ValueError, match="domain=2; allowed: 0, 1, None"):
        sample("story", 1, domain=2)
    with pytest.raises(ValueError, match="n=-1"):
        sample("story", -1)
    with pytest.raises(ValueError, match="kind='story' has no slot; allowed: review, request"):
        slot_prompt(sample("story", 1)[0])
    with pytest.raises(ValueError, match="no 'i would call it' in this review"):
        slot_prompt(Document("a good film", "review", 0, 1))
    with pytest.raises(ValueError, match="kind='poem'; allowed: story, review, request, text"):
        Document("a", "poem", 0)
    with pytest.raises(ValueError, match="label=2; allowed: 0, 1, None"):
        Document("a", "review", 0, 2)
    with pytest.raises(ValueError, match="domain=3; allowed: 0, 1"):
        Document("a", "review", 3)


def test_asking_for_more_than_there_is_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaugeport.pipeline.data.corpus.grammar._story", lambda rng, tables: "the same .")
    with pytest.raises(ValueError, match="n=2; allowed: at most 1"):
        sample("story", 2)
