"""Loading of real texts, a real tokenizer and real labels, where they are beside the checkout."""

import pytest
import torch
from transformers import AutoTokenizer

from gaugeport.pipeline.data import prompt_corpus, text_corpus
from gaugeport.texts import pack, padded_batches
from places import REAL

pytestmark = [pytest.mark.real, pytest.mark.skipif(not REAL.is_dir(), reason=f"no real artefacts in {REAL}")]


def test_stories_with_their_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(REAL / "models/stories260K")
    corpus = text_corpus(REAL / "text/tinystories.jsonl")
    assert abs(len(corpus.texts("train")) - 900) <= 10 and abs(len(corpus.texts("heldout")) - 100) <= 2
    assert not set(corpus.texts("train")) & set(corpus.texts("heldout"))
    rows = pack(corpus.texts("heldout"), tokenizer, 256)
    assert rows.shape[0] > 50 and rows.shape[1] == 256
    assert (rows[:, 0] == tokenizer.bos_token_id).all() and (rows[:, 1:] != tokenizer.bos_token_id).all()
    assert rows.min() >= 0 and rows.max() < 512
    batch = next(padded_batches(corpus.texts("heldout"), tokenizer, 4, 128))
    assert batch["input_ids"].shape == (4, 128) and torch.equal(batch["input_ids"][:, 0], torch.full((4,), 1))


def test_labelled_reviews_and_prompts() -> None:
    reviews = text_corpus(REAL / "sentiment/rt_polarity.csv", kind="review", label="label")
    labels = [document.label for document in reviews.labelled("review", "train")]
    assert len(labels) > 3500 and 0.45 < sum(map(bool, labels)) / len(labels) < 0.55
    prompts = prompt_corpus(REAL / "prompts/harmless.jsonl", REAL / "prompts/harmful.jsonl")
    assert {document.label for document in prompts.labelled("request", "heldout")} == {0, 1}
