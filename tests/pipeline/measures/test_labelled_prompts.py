"""Labelled prompts: their sources, what is refused, and that their content counts in a job's hash."""

import inspect
import json

import pytest

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.data import Corpus, load, mini_corpus, mini_tokenizer, slot_prompt, text_corpus
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.measures.answer_slot import prompt_batches
from gaugeport.pipeline.measures.labelled_prompts import (
    MINI_VERDICT,
    PLAIN_TURN,
    VERDICT,
    labelled_prompts,
)
from gaugeport.pipeline.stages.rows import data_key
from gaugeport.pipeline.tasks.shared.directions import _requests, _reviews


def job(*overrides):
    fixed = ["profile=smoke", "tracker=none", "gauge=identity", "matcher=none", "route=endpoint"]
    return from_config(compose_config([*fixed, *overrides]), ()).job


def test_mini_reviews_stop_at_the_verdict():
    found, template, source = _reviews(job("task=steering_sentiment"))
    prompts = labelled_prompts(found, "review", mini_tokenizer(), template, 30, 10, source)
    assert len(prompts.positive) == len(prompts.negative) == 30 and len(prompts.heldout_positive) == 10
    assert all(t.endswith("i would call it") for t in (*prompts.positive, *prompts.heldout_negative))
    assert not set(prompts.positive + prompts.negative) & set(
        prompts.heldout_positive + prompts.heldout_negative
    )


def test_heldout_prompts_are_unique_and_not_trained_on():
    documents = mini_corpus(20_000, 0, 0.1, 1.0)
    trained, held = ([slot_prompt(d) for d in documents.labelled("request", s)] for s in ("train", "heldout"))
    assert set(trained) & set(held), "this test needs a corpus that repeats requests"
    prompts = labelled_prompts(documents, "request", mini_tokenizer(), None, 200, 100, "mini")
    for found in (prompts.heldout_positive, prompts.heldout_negative):
        assert len(set(found)) == 100 and not set(found) & set(trained)


def test_corpus_without_unseen_prompts_is_refused():
    documents = mini_corpus(600, 0)
    same = Corpus(documents.train, documents.train)
    with pytest.raises(
        ValueError, match=r"twice: 0 prompts with label 1 in the heldout split \(of 0 labelled and not"
    ):
        labelled_prompts(same, "review", mini_tokenizer(), None, 10, 10, "twice")


def reviews_file(path, labels):
    rows = [{"text": f"film number {i} was fine", "label": label} for i, label in enumerate(labels)]
    if path.suffix == ".csv":
        path.write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows))
    else:
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_reviews_of_a_file_go_into_the_template(tmp_path, suffix):
    path = reviews_file(tmp_path / f"r{suffix}", [i % 2 for i in range(40)])
    found, template, source = _reviews(job("task=steering_sentiment", f"task.reviews={path}"))
    prompts = labelled_prompts(found, "review", mini_tokenizer(), template, 10, 10, source)
    assert prompts.positive[0].startswith("film number") and prompts.positive[0].endswith(" Overall , it was")
    assert prompts.after == " Overall , it was"
    assert {int(t.split()[2]) % 2 for t in prompts.positive + prompts.heldout_positive} == {1}


def test_one_class_and_bad_templates_are_refused(tmp_path):
    path = reviews_file(tmp_path / "one.csv", [1] * 40)
    found, template, source = _reviews(job("task=steering_sentiment", f"task.reviews={path}"))
    tokenizer = mini_tokenizer()
    with pytest.raises(ValueError, match=r"one\.csv: 0 prompts with label 0 in the train split"):
        labelled_prompts(found, "review", tokenizer, template, 10, 10, source)
    with pytest.raises(ValueError, match="no labelled 'request'"):
        labelled_prompts(found, "request", tokenizer, template, 10, 10, source)
    with pytest.raises(ValueError, match=r"template='it was'; allowed: chat, or a text with \{text\}"):
        labelled_prompts(found, "review", tokenizer, "it was", 10, 10, source)
    with pytest.raises(ValueError, match="no chat template"):
        labelled_prompts(found, "review", tokenizer, "chat", 10, 10, source)


def test_files_that_cannot_be_used_are_refused_before_anything_is_trained(tmp_path):
    texts = tmp_path / "r.csv"
    texts.write_text("text,label\n" + "".join(f"film {i},{i % 2}\n" for i in range(20)) + "film 1,0\n")
    target = "task.target=finetuned"
    with pytest.raises(ValueError, match="both labels to 1 of its texts, in row 21 to 'film 1'"):
        job("task=steering_sentiment", target, f"task.reviews={texts}")
    with pytest.raises(ValueError, match="has no field 'verdict'"):
        job("task=head_to_head", target, f"task.reviews={texts}", "task.label=verdict")
    with pytest.raises(ValueError, match="has no field 'instruction'; allowed: text, label"):
        job("task=refusal", target, f"task.harmful={texts}", f"task.harmless={texts}")
    with pytest.raises(ValueError, match=r"task\.strength=0; allowed: a positive number"):
        job("task=refusal", target, "task.strength=0")


def test_chat_template_makes_the_prompt_a_user_turn():
    tokenizer = mini_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>{{ '\\n' }}"
    )
    found, _, source = _requests(job("task=refusal"))
    prompts = labelled_prompts(found, "request", tokenizer, "chat", 5, 5, source)
    assert prompts.positive[0].startswith("<user>user :") and prompts.after == "\n<assistant>\n"


@pytest.mark.parametrize("bos", ["<bos>", None])
def test_tokens_of_chat_prompts_are_those_of_the_chat_template(bos):
    """A template that writes its own bos gets no second one; without a bos nothing is added."""
    tokenizer = mini_tokenizer()
    tokenizer.bos_token = bos
    tokenizer.chat_template = (
        "{{ bos_token or '' }} user : {{ messages[0].content | trim }} assistant : "
        "{% if add_generation_prompt %}{% endif %}"
    )
    found, _, source = _requests(job("task=refusal"))
    prompts = labelled_prompts(found, "request", tokenizer, "chat", 5, 5, source)
    documents = [d for d in found.labelled("request", "train") if d.label == 1][:5]
    turns = [[{"role": "user", "content": d.text}] for d in documents]
    options = {"tokenize": True, "add_generation_prompt": True, "return_dict": False}
    expected = sorted((tokenizer.apply_chat_template(turn, **options) for turn in turns), key=len)
    (batch,) = prompt_batches(prompts.positive, tokenizer, 64, 8, prompts.whole)
    rows = [r[: n + 1].tolist() for r, n in zip(batch.input_ids, batch.last, strict=True)]
    assert rows == expected and all(row.count(1) == (bos is not None) for row in rows), "1 is the id of <bos>"

    (short,) = prompt_batches(prompts.positive, tokenizer, 4, 8, prompts.whole)
    cut = [row[:1] + row[-3:] if bos else row[-4:] for row in expected]
    assert sorted(short.input_ids.tolist()) == sorted(cut), (
        "a long prompt loses its middle, and keeps bos where it has one"
    )


def test_template_with_bos_gets_no_second_one():
    (batch,) = prompt_batches(["<bos> it was", "it was"], mini_tokenizer(), 8, 2)
    assert batch.input_ids[0].tolist() == batch.input_ids[1].tolist()


def test_requests_of_a_pretrained_model_are_put_into_its_chat_template_if_it_has_one():
    assert job("task=refusal").task["template"] == PLAIN_TURN
    one = job("task=refusal", "model=smollm2")
    found, template, source = _requests(one)
    tokenizer = mini_tokenizer()
    plain = labelled_prompts(found, "request", tokenizer, template, 5, 5, source)
    assert plain.positive[0].endswith("\nAssistant:") and not plain.whole
    tokenizer.chat_template = "{{ messages[0].content }} it"
    chat = labelled_prompts(found, "request", tokenizer, template, 5, 5, source)
    assert chat.positive[0].endswith(" it") and chat.whole
    assert job("task=refusal", "model=smollm2", "task.template=chat").task["template"] == "chat"


def test_labels_come_from_the_hub_where_the_task_says_so(tmp_path, monkeypatch):
    asked = []

    def hub(*args, **options):
        bound = inspect.signature(load.hub_corpus).bind(*args, **options).arguments
        asked.append(bound["name"])
        path = reviews_file(tmp_path / f"{len(asked)}.jsonl", [i % 2 for i in range(40)])
        return text_corpus(path, kind=bound["kind"], label=bound.get("label"), heldout=bound["heldout"])

    monkeypatch.setattr(inspect.getmodule(_reviews), "hub_corpus", hub)
    text = ["data=text", f"data.path={reviews_file(tmp_path / 'texts.jsonl', [0] * 9)}", "task.prompts=hub"]
    found, _, source = _reviews(job("task=steering_sentiment", *text))
    assert (
        asked == ["stanfordnlp/sst2"] and "sst2" in source and len(found.labelled("review", "heldout")) == 12
    )
    with pytest.raises(TypeError, match=r"multiple values|unexpected"):
        hub("x", nonsense=1)
    found, template, source = _requests(job("task=refusal", *text))
    assert asked[1:] == ["tatsu-lab/alpaca", "walledai/AdvBench"]
    assert {d.label for d in found.labelled("request", "train")} == {0, 1} and "{text}" in template


def test_job_hash_depends_on_the_content_of_labels_and_not_on_their_path(tmp_path):
    labels = [i % 2 for i in range(40)]
    here, there = (reviews_file(tmp_path / name, labels) for name in ("here.csv", "there.csv"))
    other = reviews_file(tmp_path / "other.csv", [1 - x for x in labels])
    jobs = [job("task=steering_sentiment", f"task.reviews={p}") for p in (here, there, other)]
    ids = [job_id(j) for j in jobs]
    assert ids[0] == ids[1] != ids[2]
    assert job_id(job("task=steering_sentiment")) not in ids
    assert len({json.dumps(data_key(j), sort_keys=True) for j in (*jobs, job())}) == 1, (
        "no model depends on them"
    )
    with pytest.raises(FileNotFoundError, match=r"task\.reviews=/nope"):
        job("task=steering_sentiment", "task.reviews=/nope.csv")


def test_reviews_of_a_pretrained_model_are_asked_about_in_plain_english():
    assert job("task=steering_sentiment").task["template"] == MINI_VERDICT
    assert job("task=steering_sentiment", "model=smollm2").task["template"] == VERDICT
    assert (
        job("task=steering_sentiment", "model=smollm2", "task.template='{text} So'").task["template"]
        == "{text} So"
    )
