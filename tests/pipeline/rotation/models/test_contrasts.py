"""Contrastive sentences follow the mini grammar, come in pairs, and have other fillers where held out."""

import re

import pytest

from gaugeport.pipeline.data import mini_tokenizer, vocabulary
from gaugeport.pipeline.data.corpus import words
from gaugeport.pipeline.measures.answer_slot import prompt_batches, word_ids
from gaugeport.pipeline.rotation.models.contrasts import (
    MOST_SENTENCES,
    PARTS,
    PATTERNS,
    make_contrasts,
    natural,
)

MINI_ROW_TOKENS = 32
"""Tokens of a row of the mini corpus, its first included."""


def test_every_sentence_is_in_the_vocabulary_and_fits_a_row():
    known, tokenizer = set(vocabulary()), mini_tokenizer()
    for contrast in make_contrasts(20, mini=True):
        texts = [text for part in (contrast.build, contrast.heldout) for side in part for text in side]
        assert {w for text in texts for w in text.split()} <= known, contrast.name
        assert max(len(text.split()) for text in texts) < MINI_ROW_TOKENS
        batches = prompt_batches(texts, tokenizer, MINI_ROW_TOKENS, 64)
        assert sum(len(b.last) for b in batches) == len(texts)
        sides = word_ids(contrast.words, tokenizer, contrast.after)
        assert [len(s) for s in sides] == [len(s) for s in contrast.words], "no word is on both sides"


@pytest.mark.parametrize("sentences", [2, 20, MOST_SENTENCES])
def test_number_of_sentences_is_as_asked_for_and_all_differ(sentences):
    for contrast in make_contrasts(sentences, mini=True):
        for classes in (contrast.build, contrast.heldout):
            assert [len(set(texts)) for texts in classes] == [sentences] * 2
            assert not set(classes[0]) & set(classes[1])
            assert {text.split()[-1] for texts in classes for text in texts} == {contrast.after}
    assert make_contrasts(sentences, mini=True) == make_contrasts(sentences, mini=True)


def test_held_out_sentences_have_other_fillers():
    for p in PATTERNS:
        build, heldout = ([p.neutral[part], *p.classes[part]] for part in PARTS)
        for ours, theirs in zip(build, heldout, strict=True):
            assert ours.keys() == theirs.keys()
            for slot in ours:
                assert ours[slot] and theirs[slot] and not set(ours[slot]) & set(theirs[slot]), (p.name, slot)
        fixed = {w for template in p.templates for w in re.sub(r"\{\w+\}s?", " ", template).split()}
        fillers = {
            w for side in p.classes.values() for tables in side for table in tables.values() for w in table
        }
        assert not fixed & fillers, "a template contains a word of a class"


def test_pairs_differ_in_the_words_of_their_class_alone():
    for p in PATTERNS:
        for part in PARTS:
            sides = [{w for table in tables.values() for w in table} for tables in p.classes[part]]
            assert not sides[0] & sides[1]
            for pair in p.pairs(part):
                left, right = (text.split() for text in pair)
                assert len(left) == len(right)
                changed = [(x, y) for x, y in zip(left, right, strict=True) if x != y]
                assert changed and all(x in sides[0] and y in sides[1] for x, y in changed)


def test_verdicts_fill_no_slot_and_nobody_gives_to_themselves():
    sentiment, names, _ = PATTERNS
    for part in PARTS:
        for tables in sentiment.classes[part]:
            said = {w for table in tables.values() for w in table}
            assert not said & {*words.POSITIVE_VERDICTS, *words.NEGATIVE_VERDICTS}
        for pair in names.pairs(part):
            for text in pair:
                assert len({w for w in text.split() if w in words.NAMES}) == 2


def test_ordinary_spelling_has_capitals_and_no_space_before_stops():
    text = "mary and john lived near the market . i saw lucy ! overall i would call it"
    assert natural(text) == "Mary and John lived near the market. I saw Lucy! Overall I would call it"
    names = make_contrasts(2, mini=False)[1]
    assert names.words[0][0] == "Mary" and names.after == "to"
    assert all(text[0].isupper() and " ." not in text for text in (*names.build[0], *names.heldout[1]))


@pytest.mark.parametrize("sentences", [1, MOST_SENTENCES + 1, 2.5, True, None])
def test_bad_numbers_of_sentences_are_refused(sentences):
    with pytest.raises(ValueError) as e:
        make_contrasts(sentences, mini=True)
    assert f"task.sentences={sentences!r}; allowed: whole numbers from 2 to {MOST_SENTENCES}" in str(e.value)
