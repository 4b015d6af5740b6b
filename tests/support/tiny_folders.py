"""Folders of tiny models with a tokenizer and a text, as a user of the tool has them."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gaugeport.charts import chart_of
from gaugeport.groups import GROUPS
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport import transport_model
from tiny_models import noisy

WORDS = [f"w{i}" for i in range(60)]


def tokenizer():
    """A tokenizer of 64 words."""
    vocabulary = {w: i for i, w in enumerate(["<unk>", "<s>", "</s>", "<pad>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


def write_model(model, folder):
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_text(path, lines=60, seed=0):
    """A file of random words, a document a line."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, len(WORDS), (lines, 40), generator=generator).tolist()
    path.write_text("\n".join(" ".join(WORDS[i] for i in line) for line in drawn) + "\n")
    return path


def model(model_type="llama", seed=0):
    return tiny_model(model_type, torch.Generator().manual_seed(seed)).float()


def planted_pair(folder, model_type="llama", noise=0.02):
    """Write ``a`` and ``b``: a model, and a noisy copy of it in other coordinates. Return the gauge."""
    a = model(model_type)
    gauge = GROUPS[chart_of(a).group].random(chart_of(a).width, torch.Generator().manual_seed(5))
    write_model(a, folder / "a")
    write_model(transport_model(noisy(a, noise), gauge), folder / "b")
    write_text(folder / "text.txt")
    return gauge
