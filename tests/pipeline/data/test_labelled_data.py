"""The project's own labelled prompts: balance, lengths, duplicates, and where steering tasks use them."""

import json
import re
from collections import Counter
from itertools import combinations
from statistics import median

import pytest

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.data import NEGATIVE_VERDICTS, POSITIVE_VERDICTS, mini_tokenizer, packaged_prompts
from gaugeport.pipeline.data.labelled import FILES
from gaugeport.pipeline.job import PACKAGED_PROMPTS, job_id
from gaugeport.pipeline.measures.labelled_prompts import labelled_prompts
from gaugeport.pipeline.tasks.shared import directions

KINDS = tuple(FILES)


def read(kind):
    return [json.loads(line) for line in FILES[kind].read_text(encoding="utf8").splitlines()]


def words(text):
    return re.findall(r"\w+", text.lower())


def of_label(kind, label):
    return [row["text"] for row in read(kind) if row["label"] == label]


def job(*overrides):
    fixed = ["profile=smoke", "tracker=none", "gauge=identity", "matcher=none", "route=endpoint"]
    return from_config(compose_config([*fixed, *overrides]), ()).job


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_balanced_overall_and_reviews_within_topics(kind):
    counts = Counter(row["label"] for row in read(kind))
    assert counts[0] == counts[1] >= 150
    topics = Counter((row["topic"], row["label"]) for row in read(kind))
    assert len({topic for topic, _ in topics}) >= 7 and min(topics.values()) >= 10
    if kind == "review":
        assert all(topics[topic, 0] == topics[topic, 1] for topic, _ in topics)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_are_comparable_between_labels(kind):
    lengths = [[len(text.split()) for text in of_label(kind, label)] for label in (0, 1)]
    assert all(5 <= n <= 25 for of_one in lengths for n in of_one)
    for middle in (median, lambda n: sum(n) / len(n)):
        short, long = sorted(map(middle, lengths))
        assert long <= 1.2 * short
    characters = [median(map(len, of_label(kind, label))) for label in (0, 1)]
    assert max(characters) <= 1.2 * min(characters)


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_texts_are_nearly_the_same(kind):
    texts = [words(row["text"]) for row in read(kind)]
    grams = [{tuple(t[i : i + 3]) for i in range(len(t) - 2)} for t in texts]
    alike = max(len(a & b) / len(a | b) for a, b in combinations(grams, 2))
    assert alike < 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_clean_and_in_one_class(kind):
    assert set(map(tuple, map(sorted, read(kind)))) == {("label", "text", "topic")}
    assert not set(of_label(kind, 0)) & set(of_label(kind, 1))
    for row in read(kind):
        text = row["text"]
        assert text == " ".join(text.split()) and text[0].isupper() and text[-1] in ".?"
        assert re.fullmatch(r"[\w .,?'-]+", text), text  # letters, digits and plain punctuation
        assert row["label"] in (0, 1) and row["topic"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_opening_or_single_word_gives_a_label_away(kind):
    """Opening words tell few labels, and no frequent word is in one class alone."""
    by_label = [of_label(kind, label) for label in (0, 1)]
    openings = [Counter(words(text)[0] for text in texts) for texts in by_label]
    for word, n in (openings[0] + openings[1]).items():
        if n >= 20:
            assert min(o[word] for o in openings) >= n / 4, word
    present = [Counter(word for text in texts for word in set(words(text))) for texts in by_label]
    for word in present[0] | present[1]:
        # calling the texts with (or without) this word one class is right less often than two times in three
        right = abs(present[0][word] - present[1][word]) / (2 * len(by_label[0]))
        assert 0.5 + right < 2 / 3, word


def test_verdicts_and_refusals_are_not_in_the_texts():
    """The answer is what is measured: a text that contains it would give it away."""
    verdicts = {"good", "bad", *POSITIVE_VERDICTS, *NEGATIVE_VERDICTS}
    frequent = Counter(w for row in read("review") for w in set(words(row["text"])) if w in verdicts)
    assert sum(frequent.values()) < 0.05 * len(read("review"))
    assert not any(
        re.search(r"sorry, i|i cannot help|as an ai", row["text"].lower()) for row in read("request")
    )


def test_each_request_to_refuse_has_an_ordinary_one_that_opens_alike():
    rows = read("request")
    for refused, ordinary in zip(rows[::2], rows[1::2], strict=True):
        assert (refused["label"], ordinary["label"]) == (1, 0)
        assert words(refused["text"])[0] == words(ordinary["text"])[0]


@pytest.mark.parametrize("kind", KINDS)
def test_splits_share_no_text_and_keep_the_balance(kind):
    corpus = packaged_prompts(kind, 0.3)
    train, held_out = (corpus.labelled(kind, split) for split in ("train", "heldout"))
    assert not {d.text for d in train} & {d.text for d in held_out}
    assert len(train) + len(held_out) == len(read(kind))
    for documents in (train, held_out):
        counts = Counter(d.label for d in documents)
        assert counts[0] == counts[1]
    assert abs(len(held_out) / len(read(kind)) - 0.3) < 0.01
    topic = {row["text"]: row["topic"] for row in read(kind)}
    assert {topic[d.text] for d in held_out} == set(topic.values())
    assert corpus == packaged_prompts(kind, 0.3)


def test_unknown_kind_and_share_are_refused():
    with pytest.raises(ValueError, match=r"kind='story'.*review, request"):
        packaged_prompts("story")
    with pytest.raises(ValueError, match="heldout=1"):
        packaged_prompts("review", 1)


@pytest.fixture
def no_hub(monkeypatch):
    asked = []

    def hub(name, **options):
        asked.append(name)
        raise ConnectionError(name)

    monkeypatch.setattr(directions, "hub_corpus", hub)
    return asked


@pytest.fixture
def own_text(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    return ["data=text", f"data.path={tmp_path / 'a.txt'}"]


CASES = [("steering_sentiment", directions._reviews, "review"), ("refusal", directions._requests, "request")]


@pytest.mark.parametrize(("task", "prompts_of", "kind"), CASES)
def test_docs_and_own_text_use_packaged_prompts(task, prompts_of, kind, no_hub, own_text):
    for data in (["data=docs"], own_text, ["data=pile", "task.prompts=packaged"]):
        found, template, source = prompts_of(job(f"task={task}", *data))
        assert found == packaged_prompts(kind, 0.3) and "{text}" in template
        assert f"{kind}s packaged" in source and "task.prompts=packaged" in source
    prompts = labelled_prompts(found, kind, mini_tokenizer(), template, 200, 100, source)
    assert min(len(prompts.positive), len(prompts.negative)) > 100
    assert not no_hub


@pytest.mark.parametrize(("task", "prompts_of", "kind"), CASES)
def test_hub_texts_and_an_explicit_setting_use_the_hub(task, prompts_of, kind, no_hub):
    for data in (["data=pile"], ["data=docs", "task.prompts=hub"]):
        with pytest.raises(ConnectionError):
            prompts_of(job(f"task={task}", *data))
    assert len(no_hub) == 2


def test_mini_corpus_keeps_its_own_prompts(no_hub):
    for task, prompts_of, _ in CASES:
        assert prompts_of(job(f"task={task}", "data=mini"))[1:] == (None, "the mini corpus")


def test_files_come_before_packaged_prompts(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("text,label\n" + "".join(f"film {i},{i % 2}\n" for i in range(20)))
    one = job("task=steering_sentiment", "data=docs", f"task.reviews={path}")
    assert directions._reviews(one)[2] == f"task.reviews={path}"
    assert "task.prompts" not in one.files()


def test_source_that_does_not_exist_is_refused():
    for task in ("steering_sentiment", "refusal", "head_to_head"):
        target = ["task.target=finetuned"] if task == "head_to_head" else []
        with pytest.raises(ValueError, match=r"task\.prompts='nope'; allowed: None, packaged, hub"):
            job(f"task={task}", "task.prompts=nope", *target)


def test_ids_change_with_the_packaged_texts_and_not_where_others_are_used(tmp_path, monkeypatch):
    """The unset setting counts nowhere, so that records made before it keep their ids."""
    jobs = [job("task=steering_sentiment", f"data={data}") for data in ("docs", "mini", "pile")]
    assert all("prompts" not in j.key()["task"] for j in jobs)
    before = [job_id(j) for j in jobs]
    (tmp_path / "reviews.jsonl").write_text('{"text": "Changed.", "label": 1, "topic": "none"}\n')
    monkeypatch.setitem(PACKAGED_PROMPTS, "reviews", tmp_path / "reviews.jsonl")
    after = [job_id(j) for j in jobs]
    assert before[0] != after[0] and before[1:] == after[1:]
