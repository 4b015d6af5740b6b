"""The slot of an answer: log odds of resumed passes, streams at the last token, prompts and their words."""

import pytest
import torch

from gaugeport.charts import chart_of
from gaugeport.charts.logit_change import YARDSTICK_FACTOR
from gaugeport.pipeline.data import NEGATIVE_VERDICTS, POSITIVE_VERDICTS, mini_tokenizer
from gaugeport.pipeline.measures.answer_slot import (
    Prompts,
    Slot,
    last_token_streams,
    prompt_batches,
    word_ids,
)
from gaugeport.pipeline.measures.gauge_groups import MODEL_TYPES, tiny_model
from gaugeport.streams.interventions import adding, edited
from prompt_rows import WORDS, token_rows
from tiny_models import gen


def ragged(g):
    ids = torch.randint(3, 64, (3, 9), generator=g)
    last = torch.tensor([3, 8, 6])
    return Prompts(ids, (torch.arange(9) <= last[:, None]).long(), last)


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_resumed_log_odds_equal_those_of_whole_forward_passes(family):
    model, prompts = tiny_model(family, gen()), ragged(gen(1))
    chart, v = chart_of(model), torch.randn(32, generator=gen(2))
    rows = list(zip(prompts.input_ids, prompts.last.tolist(), strict=True))

    def f(logits):
        return logits.double()[WORDS[0]].logsumexp(0) - logits.double()[WORDS[1]].logsumexp(0)

    # padding is summed over with weights of zero; measure what this costs without any edit
    with torch.no_grad():
        padded = model(prompts.input_ids, attention_mask=prompts.attention_mask).logits
        costs = [
            (padded[i, k] - model(r[None, : k + 1]).logits[0, -1]).abs().max()
            for i, (r, k) in enumerate(rows)
        ]
    yardstick = YARDSTICK_FACTOR * max(max(costs), torch.finfo(torch.float32).eps * padded.abs().max())
    for site in ("block0", "block1"):
        slot = Slot(model, chart, site, [prompts], WORDS)
        with torch.no_grad(), edited(model, chart, site, adding(v)):
            expected = torch.stack([f(model(r[None, : k + 1]).logits[0, -1]) for r, k in rows])
        assert (slot.log_odds(adding(v)) - expected).abs().max() <= yardstick
        assert (slot.log_odds() - expected).abs().max() > 1e-2 > yardstick, "the edit counts"
    with torch.no_grad():
        after = model(prompts.input_ids).logits
    fresh = tiny_model(family, gen())
    assert torch.equal(after, fresh(prompts.input_ids).logits), "the model is unchanged"


def test_training_mode_and_sites_other_than_blocks_are_refused():
    model, prompts = tiny_model("llama", gen()), token_rows(2, 5, gen())
    chart = chart_of(model)
    for site in ("embed", "block7"):
        with pytest.raises(ValueError, match=f"{site}"):
            Slot(model, chart, site, [prompts], WORDS)
    with pytest.raises(ValueError, match="training mode"):
        last_token_streams(model.train(), chart, "block1", [prompts])


def test_direction_and_length_are_those_of_ordinary_tokens():
    """A massive token in the middle of a prompt, at the start of two, and at the slot of another."""
    model, prompts = tiny_model("llama", gen()), token_rows(6, 8, gen(3))
    prompts.input_ids.clamp_(max=60)
    for place in ((1, 4), (2, 0), (3, 0), (5, 7)):
        prompts.input_ids[place] = 63
    with torch.no_grad():
        model.model.embed_tokens.weight[63] *= 1000
        x = model(prompts.input_ids, output_hidden_states=True).hidden_states[1]
    ordinary = prompts.input_ids != 63
    found = last_token_streams(model, chart_of(model), "block0", [prompts])
    assert torch.equal(found.streams, x[:5, -1]) and found.left_out == 2
    assert found.length == pytest.approx(float(x[:, 1:][ordinary[:, 1:]].norm(dim=-1).mean()), rel=1e-6)
    kept = last_token_streams(model, chart_of(model), "block0", [prompts], "keep")
    assert torch.equal(kept.streams, x[:, -1]) and kept.left_out == 0
    assert kept.length == pytest.approx(float(x[:, 1:].norm(dim=-1).mean()), rel=1e-6)
    assert kept.length > 2 * found.length
    prompts.input_ids[:, -1] = 63
    with pytest.raises(ValueError, match="the last token of every prompt is massive at block0"):
        last_token_streams(model, chart_of(model), "block0", [prompts])


def test_prompts_keep_their_end_and_their_first_token():
    tokenizer = mini_tokenizer()
    texts = ["the plot was great . overall i would call it", "it was dull"]
    (batch,) = prompt_batches(texts, tokenizer, 6, 4)
    assert tokenizer.decode(batch.input_ids[1]) == "<bos> overall i would call it"
    assert batch.attention_mask.sum(1).tolist() == [4, 6] and batch.last.tolist() == [3, 5]
    with pytest.raises(ValueError, match="no tokens"):
        prompt_batches(["great", "  "], tokenizer, 6, 4)
    with pytest.raises(ValueError, match="0 prompts"):
        prompt_batches([], tokenizer, 6, 4)


def test_word_ids_are_first_tokens_of_one_side_only():
    tokenizer = mini_tokenizer()
    positive, negative = word_ids((POSITIVE_VERDICTS, NEGATIVE_VERDICTS), tokenizer)
    assert tokenizer.convert_ids_to_tokens(positive.tolist()) == sorted(POSITIVE_VERDICTS)
    assert len(negative) == 8
    positive, negative = word_ids((["great", "dull"], ["dull", "awful"]), tokenizer)
    assert tokenizer.convert_ids_to_tokens([*positive, *negative]) == ["great", "awful"]
    with pytest.raises(ValueError, match="does not know 'xylophone'"):
        word_ids((["great", "xylophone"], ["dull"]), tokenizer)
    with pytest.raises(ValueError, match="the words dull share their first tokens"):
        word_ids((["dull"], ["dull", "awful"]), tokenizer)
    with pytest.raises(ValueError, match=r"\(none\)"):
        word_ids(([], ["dull"]), tokenizer)
