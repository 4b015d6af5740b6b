"""Paper B's transformer: two layers, RMSNorm, a ReLU MLP, no biases, six analytic position features, three heads.

Registered with transformers' Auto classes (``dyck3``), so that a folder of one loads, trains and transports as any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.utils import ModelOutput

from gaugeport.utils.precision import at_least_float32

VOCABULARY = 40
"""Size of the vocabulary; the first 9 ids have a meaning."""
MAX_DEPTH = 8
"""Largest bracket depth: valid strings stay within it, and depth labels are clamped to it."""
HEADS = ("token", "depth", "valid")
CLASSES = (VOCABULARY, MAX_DEPTH + 1, 2)
"""Number of classes that each of :data:`HEADS` predicts at every position."""
IGNORED = -100
"""Label of padding: no loss and no measurement counts it."""

POSITION_FEATURES = 6

GROUPS = 4
"""Groups of like length that a batch is trained in."""


class DyckConfig(PreTrainedConfig):
    """Sizes of paper B, section 4.1; the unembeddings have 40 + 9 + 2 rows."""

    model_type = "dyck3"

    def __init__(
        self,
        vocab_size: int = VOCABULARY,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        intermediate_size: int = 256,
        max_position_embeddings: int = 64,
        rms_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        **rest: Any,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.rms_norm_eps = rms_norm_eps
        self.initializer_range = initializer_range
        super().__init__(**rest)


@dataclass
class DyckOutput(ModelOutput):
    """``logits`` float[b, t, 51]: those of token, depth and valid side by side (see :func:`by_head`)."""

    loss: Tensor | None = None
    logits: Tensor | None = None


def by_head(logits: Tensor) -> tuple[Tensor, ...]:
    """The logits [..., 51] of the three heads: token [..., 40], depth [..., 9], valid [..., 2]."""
    return logits.split(list(CLASSES), -1)


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p of the true labels in nats, float[b, t, 3]; 0 on padding. Logits [b, t, 51], labels int64[b, t, 3]."""
    parts = [
        functional.cross_entropy(
            at_least_float32(z).movedim(-1, 1), labels[..., k], ignore_index=IGNORED, reduction="none"
        )
        for k, z in enumerate(by_head(logits))
    ]
    return torch.stack(parts, -1)


def positions(context: int, width: int) -> Tensor:
    """The fixed features of every position, in the last six residual coordinates. float[context, width]

    Linear counter, inverse counter, log position, BOS indicator, half a period of cosine and sine (section 4.1).
    """
    t = torch.arange(context, dtype=torch.float64)
    features = [t / context, 1 / (t + 1), torch.log1p(t) / math.log(context), (t == 0).double()]
    features += [torch.cos(math.pi * t / context), torch.sin(math.pi * t / context)]
    table = torch.zeros(context, width, dtype=torch.float64)
    table[:, -POSITION_FEATURES:] = torch.stack(features, -1)
    return table.float()


class DyckAttention(nn.Module):
    """Causal attention without biases; scores over the square root of the head's width."""

    def __init__(self, config: DyckConfig):
        super().__init__()
        d = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(d, d, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        z = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(z.transpose(1, 2).flatten(-2))


class DyckMLP(nn.Module):
    """One hidden layer of ReLU neurons, no biases."""

    def __init__(self, config: DyckConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.relu(self.up_proj(x)))


class DyckLayer(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual connection."""

    def __init__(self, config: DyckConfig):
        super().__init__()
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = DyckAttention(config)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = DyckMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class DyckPreTrainedModel(PreTrainedModel):
    """What transformers wants to know of the family."""

    config_class = DyckConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
        elif isinstance(module, LlamaRMSNorm):
            nn.init.ones_(module.weight)


class DyckStream(DyckPreTrainedModel):
    """Embedding, layers and final norm."""

    def __init__(self, config: DyckConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.register_buffer("position", positions(config.max_position_embeddings, config.hidden_size))
        self.layers = nn.ModuleList([DyckLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool | None = None
    ) -> BaseModelOutput:
        length = input_ids.shape[1]
        known = len(self.get_buffer("position"))
        if length > known:
            raise ValueError(f"rows of {length} tokens; this model knows {known} positions")
        if attention_mask is not None and bool((attention_mask.diff(dim=1) > 0).any()):
            raise ValueError(
                "attention_mask has a 0 before a 1: rows are padded on the right, where causality hides it"
            )
        x = self.embed_tokens(input_ids) + self.get_buffer("position")[:length]
        for layer in self.layers:
            x = layer(x)
        return BaseModelOutput(last_hidden_state=self.norm(x))


class DyckModel(DyckPreTrainedModel):
    """104,448 parameters at the paper's sizes: token, depth and valid of bounded Dyck-3 at every position (section 4)."""

    def __init__(self, config: DyckConfig):
        super().__init__(config)
        token, depth, valid = CLASSES
        self.model = DyckStream(config)
        self.lm_head = nn.Linear(config.hidden_size, token, bias=False)
        self.depth_head = nn.Linear(config.hidden_size, depth, bias=False)
        self.valid_head = nn.Linear(config.hidden_size, valid, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def unembed(self, x: Tensor) -> Tensor:
        """The logits [..., 51] of a normed stream [..., d]."""
        return torch.cat([head(x) for head in (self.lm_head, self.depth_head, self.valid_head)], -1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> DyckOutput:
        """``loss`` is the mean over heads and positions that are no padding, given ``labels`` int64[b, t, 3].

        In training mode, given labels, that is all: no logits.
        """
        if labels is not None and self.training:
            return DyckOutput(loss=self._by_length(input_ids, labels))
        logits = self.unembed(self.model(input_ids, attention_mask).last_hidden_state)
        loss = None if labels is None else losses(logits, labels).sum() / _counted(labels)
        return DyckOutput(loss=loss, logits=logits)

    def _by_length(self, ids: Tensor, labels: Tensor) -> Tensor:
        """The mean loss, strings of like length together: what lies behind the longest of a group is not computed.

        Half of a batch is padding, which nothing before it sees.
        """
        size = (labels[..., 0] != IGNORED).sum(1)
        total = torch.zeros((), device=ids.device)
        for group in size.argsort().chunk(GROUPS):
            length = int(size[group].max())
            logits = self.unembed(self.model(ids[group, :length]).last_hidden_state)
            total = total + losses(logits, labels[group, :length]).sum()
        return total / _counted(labels)


def _counted(labels: Tensor) -> Tensor:
    return (labels != IGNORED).sum().clamp(min=1)


AutoConfig.register("dyck3", DyckConfig, exist_ok=True)
AutoModelForCausalLM.register(DyckConfig, DyckModel, exist_ok=True)
