"""Draw damage to files, for the tests that damage files at random.

``GAUGEPORT_FUZZ_EXAMPLES=10000`` draws as many cases a test as it says, others each time; without it a
few cases are drawn, always the same.
"""

import io
import json
import os
import struct

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = os.environ.get("GAUGEPORT_FUZZ_EXAMPLES") or os.environ.get("GAUGEPORT_FUZZ")


def fuzz(cases):
    """Return the settings of a test that draws so many cases, or as many as the environment says."""
    return settings(
        max_examples=int(EXAMPLES or cases),
        derandomize=EXAMPLES is None,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


FUZZ = fuzz(40)

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.just(10**30)
    | st.floats()
    | st.sampled_from(
        ["", "out", "standard", "topk", "16", "model.norm", "blocks.1.hook_resid_pre", "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
SHAPES = st.lists(st.integers(0, 40), max_size=3)
DTYPES = st.sampled_from(
    (
        *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn),
        *(torch.int64, torch.int8, torch.bool, torch.complex64, torch.uint16),
    )
)


def damaged_bytes(content, data, head=400):
    """Overwrite, insert, remove or cut some bytes, most of them near one of the two ends."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.one_of(st.integers(0, head), st.integers(0, len(content)), st.integers(-head, -1)))
        at = max(0, min(len(changed), at if at >= 0 else len(changed) + at))
        new = data.draw(st.binary(min_size=1, max_size=8))
        match data.draw(st.sampled_from(["overwrite", "insert", "remove", "cut"])):
            case "overwrite":
                changed[at : at + len(new)] = new
            case "insert":
                changed[at:at] = new
            case "remove":
                del changed[at : at + len(new)]
            case "cut":
                del changed[at:]
    return bytes(changed)


def damaged_json(content, data):
    """Replace, remove or add values anywhere in a JSON object."""
    changed = json.loads(content)
    for _ in range(data.draw(st.integers(1, 2))):
        place = changed
        while isinstance(place, dict) and place:
            key = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[key], dict) or data.draw(st.booleans()):
                match data.draw(st.sampled_from(["replace", "remove", "add"])):
                    case "replace":
                        place[key] = data.draw(JSON_VALUES)
                    case "remove":
                        del place[key]
                    case "add":
                        place[data.draw(st.text(max_size=4))] = data.draw(JSON_VALUES)
                break
            place = place[key]
    return json.dumps(changed).encode()


def damaged_header(content, data):
    """Change names, dtypes, shapes, offsets or metadata in the header of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    header = damaged_json(content[8 : 8 + length], data)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def other_tensor(data):
    """Draw a tensor of any dtype and a small shape."""
    return torch.zeros(data.draw(SHAPES)).to(data.draw(DTYPES))


def damaged_tensors(content, data):
    """Replace, remove or add values anywhere in what ``torch.save`` wrote."""
    changed = torch.load(io.BytesIO(content), weights_only=True)
    values = st.one_of(JSON_VALUES, st.builds(lambda: other_tensor(data)))
    for _ in range(data.draw(st.integers(1, 2))):
        place = changed
        while isinstance(place, dict | list) and len(place):
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 3)) == 0:
                action = data.draw(st.sampled_from(["replace", "remove", "add"]))
                if action == "replace":
                    place[key] = data.draw(values)
                elif action == "remove":
                    del place[key]
                elif isinstance(place, dict):
                    place[data.draw(st.text(max_size=4) | st.integers(0, 9))] = data.draw(values)
                else:
                    place.append(data.draw(values))
                break
            place = place[key]
        else:
            changed = data.draw(values)
    buffer = io.BytesIO()
    torch.save(changed, buffer)
    return buffer.getvalue()
