"""Define paper B's transformer: two layers, RMSNorm, ReLU MLPs, analytic positions, three unembeddings.

It is registered with transformers' Auto classes as ``dyck3``, so that its folders load, train and transport
like those of any other architecture.
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

from gaugeport.models import dyck_gradient
from gaugeport.utils.precision import at_least_float32

VOCABULARY = 40
"""Size of the vocabulary; the first 9 ids have a meaning."""
MAX_DEPTH = 8
"""Largest bracket depth: valid strings stay within it, and depth labels are clamped to it."""
HEADS = ("token", "depth", "valid")
"""What the model predicts at every position: the token, the bracket depth, and validity so far."""
CLASSES = (VOCABULARY, MAX_DEPTH + 1, 2)
"""Number of classes that each of :data:`HEADS` predicts at every position."""
IGNORED = -100
"""Label of padding: no loss and no measurement counts it."""

POSITION_FEATURES = 6
"""Number of residual coordinates that hold the position, the last ones."""
LENGTH_GROUPS = 4
"""Number of groups of similar length that a training batch is split into."""


class DyckConfig(PreTrainedConfig):
    """The sizes of the model. The defaults are those of paper B, section 4.1.

    The paper does not say how weights begin. ``initializer_range`` is the standard deviation of all of them;
    None leaves what PyTorch gives: uniform in ±1/√inputs for linear maps, standard normal for the embedding.
    """

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
        initializer_range: float | None = 0.02,
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
    """``logits`` float[b, t, 51] are those of token, depth and valid side by side (see :func:`by_head`)."""

    loss: Tensor | None = None
    logits: Tensor | None = None


def by_head(logits: Tensor) -> tuple[Tensor, ...]:
    """Split logits [..., 51] into those of token [..., 40], depth [..., 9] and valid [..., 2]."""
    return logits.split(list(CLASSES), -1)


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each head at each position, in nats; 0 on padding.

    Args:
        logits: float[b, t, 51].
        labels: int64[b, t, 3], :data:`IGNORED` on padding.

    Returns:
        float[b, t, 3], in float32 or wider.
    """
    per_head = []
    for k, z in enumerate(by_head(logits)):
        classes_second = at_least_float32(z).movedim(-1, 1)  # as cross_entropy expects them
        loss = functional.cross_entropy(
            classes_second, labels[..., k], ignore_index=IGNORED, reduction="none"
        )
        per_head.append(loss)
    return torch.stack(per_head, -1)


def positions(context: int, width: int) -> Tensor:
    """Return the fixed features of every position, float[context, width], in the last six coordinates.

    They are a linear counter, an inverse counter, the log position, a BOS indicator, and half a period of
    cosine and of sine (paper B, section 4.1).
    """
    t = torch.arange(context, dtype=torch.float64)
    features = [t / context, 1 / (t + 1), torch.log1p(t) / math.log(context), (t == 0).double()]
    features += [torch.cos(math.pi * t / context), torch.sin(math.pi * t / context)]
    table = torch.zeros(context, width, dtype=torch.float64)
    table[:, -POSITION_FEATURES:] = torch.stack(features, -1)
    return table.float()


class DyckAttention(nn.Module):
    """Causal attention without biases. Scores are divided by the square root of the head's width."""

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
    """Attention and MLP, each with a norm before it and a residual connection."""

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
    """The settings that transformers reads of an architecture."""

    config_class = DyckConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding) and std is None:
            module.reset_parameters()
        elif isinstance(module, nn.Linear | nn.Embedding):
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
        self.check_rows(input_ids, attention_mask)
        x = self.embed_tokens(input_ids) + self.get_buffer("position")[: input_ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return BaseModelOutput(last_hidden_state=self.norm(x))

    def check_rows(self, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        """Refuse rows that are longer than the model's positions, or padded on the left."""
        length, n_positions = input_ids.shape[1], len(self.get_buffer("position"))
        if length > n_positions:
            raise ValueError(f"the model has {n_positions} positions, got rows of {length} tokens")
        if attention_mask is not None and bool((attention_mask.diff(dim=1) > 0).any()):
            # padding on the right needs no mask: causal attention does not see it
            raise ValueError("attention_mask has a 0 before a 1; expected rows padded on the right")


class DyckModel(DyckPreTrainedModel):
    """The model of paper B, section 4, for bounded Dyck-3. It has 104,448 parameters at the paper's sizes."""

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
        """Return the logits [..., 51] of a normalised stream [..., d]."""
        return torch.cat([head(x) for head in (self.lm_head, self.depth_head, self.valid_head)], -1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
    ) -> DyckOutput:
        """Return logits, and the mean loss over heads and unpadded positions if there are labels.

        In training mode with labels, only the loss is computed; on a CPU, in float32 or wider, its gradient
        with it.

        Args:
            input_ids: int64[b, t], padded on the right.
            attention_mask: int64[b, t], only checked.
            labels: int64[b, t, 3], :data:`IGNORED` on padding.
            use_cache: Ignored.

        Raises:
            ValueError: If rows are longer than the model's positions, or padded on the left.
        """
        if labels is not None and self.training:
            self.model.check_rows(input_ids, attention_mask)
            in_float32 = self.dtype.itemsize >= 4 and not torch.is_autocast_enabled("cpu")
            by_hand = input_ids.device.type == "cpu" and in_float32
            loss_of = self._loss_by_hand if by_hand else self._loss_by_length
            return DyckOutput(loss=loss_of(input_ids, labels))
        logits = self.unembed(self.model(input_ids, attention_mask).last_hidden_state)
        loss = None if labels is None else losses(logits, labels).sum() / _label_count(labels)
        return DyckOutput(loss=loss, logits=logits)

    def _loss_by_hand(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss, whose gradient is computed with it."""
        config = self.config
        sizes = dyck_gradient.Sizes(
            config.num_hidden_layers, config.num_attention_heads, config.rms_norm_eps, CLASSES
        )
        position = self.model.get_buffer("position")
        return dyck_gradient.mean_loss(dict(self.named_parameters()), position, ids, labels, sizes)

    def _loss_by_length(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss, computed in groups of similar length to skip padding, half of a batch."""
        size = (labels[..., 0] != IGNORED).sum(1)
        total = torch.zeros((), device=ids.device)
        for group in size.argsort().chunk(LENGTH_GROUPS):
            length = int(size[group].max())
            logits = self.unembed(self.model(ids[group, :length]).last_hidden_state)
            total = total + losses(logits, labels[group, :length]).sum()
        return total / _label_count(labels)


def _label_count(labels: Tensor) -> Tensor:
    return (labels != IGNORED).sum().clamp(min=1)


AutoConfig.register("dyck3", DyckConfig, exist_ok=True)
AutoModelForCausalLM.register(DyckConfig, DyckModel, exist_ok=True)
