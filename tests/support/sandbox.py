"""A folder of all that the tool's commands read, in which commands run, and which shows what they changed."""

import os
import shutil
import stat
import warnings

import numpy as np
import torch
from safetensors.torch import save_file

from gaugeport.groups import Orthogonal
from lora_adapters import adapt
from tiny_folders import model, planted_pair, write_model


def build(place):
    """Fill a folder with models, what is written in their coordinates, and what is no such thing."""
    planted_pair(place, noise=0.0).save(place / "g.safetensors")
    Orthogonal.random(32, torch.Generator().manual_seed(0)).save(place / "rotation.safetensors")
    write_model(model("gpt2"), place / "gpt2")
    write_model(model(), place / "runs" / "checkpoint-1")
    v = torch.randn(32, generator=torch.Generator().manual_seed(2))
    np.save(place / "v.npy", v.numpy())
    (place / "top.json").write_text("[3, 17]")
    (place / "sae").mkdir()
    latents = {"encoder.weight": torch.eye(32), "encoder.bias": v, "W_dec": torch.eye(32), "b_dec": v.clone()}
    save_file(latents, place / "sae" / "sae.safetensors")
    (place / "sae" / "cfg.json").write_text('{"d_in": 32, "k": 4}')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapt(model())[0].save_pretrained(place / "adapter")
    trained = write_checkpoint(place / "checkpoint-1")
    shutil.copytree(trained, place / "a=b (2) {x}" / "1.10")
    # what is none of these
    (place / "empty").mkdir()
    (place / "nothing.txt").write_text("")
    (place / "noise.safetensors").write_bytes(bytes(range(256)))
    (place / "bad.json").write_text('{"index": [1,')
    (place / "loop").symlink_to("loop")
    (place / "nowhere").symlink_to("missing")
    os.mkfifo(place / "pipe")
    os.mkfifo(place / "pipe.safetensors")


def write_checkpoint(folder):
    """Write a model with the state of an optimizer, as accelerate and a config beside it make one."""
    trained = model()
    optimizer = torch.optim.AdamW(trained.parameters())
    trained(torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    write_model(trained, folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.bin")
    return folder


def snapshot(place):
    """Return path -> the bytes of the file there, the target of the link, or the kind of anything else."""
    found = {}
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                with open(path, "rb") as f:
                    found[path] = f.read()
            else:
                found[path] = os.readlink(path) if stat.S_ISLNK(mode) else stat.S_IFMT(mode)
    return found


def restore(before, after):
    """Make the files and folders of a snapshot what they were before."""
    for path in sorted(after.keys() - before.keys(), key=len, reverse=True):
        os.rmdir(path) if after[path] == stat.S_IFDIR else os.unlink(path)
    for path, content in before.items():
        if after.get(path) != content:
            if after.get(path) == stat.S_IFDIR:  # emptied above
                os.rmdir(path)
            if content == stat.S_IFDIR:
                os.makedirs(path, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as f:
                    f.write(content)
