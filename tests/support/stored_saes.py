"""Write small SAEs as sparsify and dictionary_learning do, and compute with them as these libraries do.

The classes' forward passes are written out here in plain torch, from their sources: EleutherAI/sparsify
(sparse_coder.py) and saprmarks/dictionary_learning (dictionary.py, trainers/top_k.py, batch_top_k.py and
matryoshka_batch_top_k.py).
"""

import json
from collections import OrderedDict

import torch
from safetensors.torch import load_file, save_file

D, N, K = 16, 40, 5

LINEAR = {"encoder.weight": (N, D), "encoder.bias": (N,), "decoder.weight": (D, N)}
SHAPES = {
    "AutoEncoder": LINEAR | {"bias": (D,)},
    "AutoEncoderNew": LINEAR | {"decoder.bias": (D,)},
    "GatedAutoEncoder": {
        "decoder_bias": (D,),
        "encoder.weight": (N, D),
        "decoder.weight": (D, N),
        **dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), (N,)),
    },
    "JumpReluAutoEncoder": {
        "W_enc": (D, N),
        "b_enc": (N,),
        "W_dec": (N, D),
        "b_dec": (D,),
        "threshold": (N,),
    },
    "AutoEncoderTopK": LINEAR | {"b_dec": (D,), "k": (), "threshold": ()},
    "BatchTopKSAE": LINEAR | {"b_dec": (D,), "k": (), "threshold": ()},
    "MatryoshkaBatchTopKSAE": {
        "W_enc": (D, N),
        "b_enc": (N,),
        "W_dec": (N, D),
        "b_dec": (D,),
        "k": (),
        "threshold": (),
        "group_sizes": (2,),
    },
}
"""The tensors of each class of dictionary_learning."""

SPARSIFY = {
    "sae": {},
    "transcoder": {"transcode": True},
    "skip": {"transcode": True, "skip_connection": True},
}
"""The configs of sparsify's kinds."""

CASES = [("sparsify", kind) for kind in SPARSIFY] + [("dictionary_learning", name) for name in SHAPES]


def random_tensors(shapes, dtype):
    generator = torch.Generator().manual_seed(0)
    tensors = OrderedDict()
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name == "k":
            tensors[name] = torch.tensor(K, dtype=torch.int)
        elif name == "group_sizes":
            tensors[name] = torch.tensor([N // 4, N - N // 4])
        elif name == "threshold":
            tensors[name] = values.abs().float() if not shape else values.abs().to(dtype)
        else:
            tensors[name] = values.to(dtype)
    return tensors


def write(library, kind, folder, dtype=torch.float64, **config):
    """Write a random SAE as a library does, and return its folder."""
    folder.mkdir(parents=True)
    if library == "sparsify":
        options = {"activation": "topk", "k": K, "num_latents": 0, "d_in": D, **SPARSIFY[kind], **config}
        shapes = {"encoder.weight": (N, D), "encoder.bias": (N,), "W_dec": (N, D), "b_dec": (D,)}
        if options.get("skip_connection"):
            shapes["W_skip"] = (D, D)
        save_file(random_tensors(shapes, dtype), folder / "sae.safetensors", metadata={"format": "pt"})
        (folder / "cfg.json").write_text(json.dumps(options))
        return folder
    trainer = {"dict_class": kind, "activation_dim": D, "dict_size": N, "k": K, "layer": 3, **config}
    torch.save(random_tensors(SHAPES[kind], dtype), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"io": "out"}}))
    return folder


def top_k(pre, k):
    """Keep the k largest of each row."""
    values, indices = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter_(-1, indices, values)


def forward(folder, x):
    """Return the latents and the reconstruction of rows of activations, as the library of the folder does."""
    if (folder / "cfg.json").exists():
        return forward_sparsify(
            json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae.safetensors"), x
        )
    config = json.loads((folder / "config.json").read_text())
    return forward_dictionary(
        config["trainer"]["dict_class"], torch.load(folder / "ae.pt", weights_only=True), x
    )


def forward_sparsify(config, t, x):
    centred = x if config.get("transcode") else x - t["b_dec"]
    latents = top_k((centred @ t["encoder.weight"].T + t["encoder.bias"]).relu(), config["k"])
    out = latents @ t["W_dec"] + t["b_dec"]
    return latents, out + x @ t["W_skip"].T if "W_skip" in t else out


def forward_dictionary(kind, t, x):
    if kind == "GatedAutoEncoder":
        pre = (x - t["decoder_bias"]) @ t["encoder.weight"].T
        gate = (pre + t["gate_bias"] > 0).to(x.dtype)
        norms = t["decoder.weight"].norm(dim=0)
        latents = gate * (t["r_mag"].exp() * pre + t["mag_bias"]).relu() * norms
        return latents, (latents / norms) @ t["decoder.weight"].T + t["decoder_bias"]
    if kind == "JumpReluAutoEncoder":
        pre = x @ t["W_enc"] + t["b_enc"]
        norms = t["W_dec"].norm(dim=1)
        latents = (pre * (pre > t["threshold"])).relu() * norms
        return latents, (latents / norms) @ t["W_dec"] + t["b_dec"]
    if kind == "MatryoshkaBatchTopKSAE":
        pre = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
        latents = pre * (pre > t["threshold"])
        return latents, latents @ t["W_dec"] + t["b_dec"]
    bias = t.get("bias", t.get("b_dec", t.get("decoder.bias")))
    centred = x if kind == "AutoEncoderNew" else x - bias
    pre = (centred @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    latents = pre
    if kind == "AutoEncoderTopK":
        latents = top_k(pre, int(t["k"]))
    elif kind == "BatchTopKSAE":
        latents = pre * (pre > t["threshold"])
    return latents, latents @ t["decoder.weight"].T + bias
