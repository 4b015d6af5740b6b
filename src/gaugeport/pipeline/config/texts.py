"""Take paths and free text as they were typed.

Hydra's grammar reads ``1.10`` as a number, ``=`` and ``{`` as syntax and ``${…}`` as a reference. Here the
values of keys whose declared type is text are put in Hydra's quotes first, so that none of it happens.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Union, get_args, get_origin, get_type_hints

from gaugeport.pipeline.job import TASK_FILES, Job

CHOICES = ("profile", "gauge", "matcher", "route", "data.depth_label")
"""Fields of a job that are a choice among given names, such as files in ``conf/``, and never free text."""

TASK_TEXTS = {**dict.fromkeys((*TASK_FILES, "template"), True), "field": False, "label": False}
"""Task keys that are text -> whether they may be null."""

HUB_TEXTS = re.compile(r"task\.hub\.(\w+\.)?(name|split|field|label)")
"""Keys of a dataset on the hub, in tasks that can read one."""

QUOTED = r'"(?:[^"\\]|\\.)*"|' r"'(?:[^'\\]|\\.)*'"
"""A string in Hydra's quotes."""

PLAIN = re.compile(r"[\w./-]*[A-Za-z_/][\w./-]*", re.ASCII)
"""Text that Hydra reads as it is, unless it is a number or one of :data:`WORDS`."""

WORDS = ("null", "true", "false")


def as_typed(overrides: Sequence[str]) -> list[str]:
    """Return overrides of one job in which Hydra reads every path and free text as it was typed.

    Values that are in Hydra's quotes already are left as they are, so calling this twice changes nothing.
    """
    return [_rewritten(o, lambda text: [text]) for o in overrides]


def as_typed_in_sweep(overrides: Sequence[str]) -> list[str]:
    """Return the same for a sweep, where commas outside of quotes separate the values of a key."""
    return [_rewritten(o, _split) for o in overrides]


def is_text(key: str) -> bool:
    """Return whether a config key is a path or free text."""
    return _nullable(key) is not None


def swept_texts(overrides: Sequence[str]) -> list[str]:
    """Return the keys to which a sweep's overrides give several texts."""
    given = [o.partition("=") for o in overrides]
    return [key for key, _, value in given if is_text(key) and len(_split(value)) > 1]


def how_to_quote(key: str) -> str:
    """Return what is allowed as the value of a key that is text."""
    return (
        f"the value of {key} is taken as it is typed; with -m a comma separates values, so quote one that "
        f"holds a comma: '{key}=\"a,b\"'"
    )


def setting(key: str, text: str) -> str:
    """Return the override that sets a key to a text, whatever the text holds."""
    return f"{key}={text if _is_plain(text) else _quoted(text)}"


def text_of(value: str) -> str:
    """Return the text that an override's value stands for, without Hydra's quotes."""
    if not re.fullmatch(QUOTED, value, re.DOTALL):
        return value
    text = value[1:-1]
    for special in (rf"{value[0]}|\Z", r"\$\{"):
        text = re.sub(rf"(\\+)(?={special})", lambda m: m[1][: len(m[1]) // 2], text)
    return text


def _rewritten(override: str, split: Callable[[str], list[str]]) -> str:
    key, is_override, value = override.partition("=")
    nullable = _nullable(key)
    if not is_override or nullable is None:
        return override
    return f"{key}={','.join(_value(part, nullable) for part in split(value))}"


def _value(text: str, nullable: bool) -> str:
    as_it_is = _is_plain(text) or re.fullmatch(QUOTED, text, re.DOTALL) or (nullable and text == "null")
    return text if as_it_is else _quoted(text)


def _split(value: str) -> list[str]:
    """Split a value at the commas outside of Hydra's quotes."""
    part = re.compile(rf"(?:{QUOTED})(?=,|\Z)|[^,]*", re.DOTALL)
    parts: list[str] = []
    start = 0
    while start <= len(value):
        found = part.match(value, start)
        assert found is not None  # the second form matches anything, and nothing
        parts.append(found[0])
        start = found.end() + 1
    return parts


def _is_plain(text: str) -> bool:
    return bool(PLAIN.fullmatch(text)) and text.lower() not in WORDS and not _is_number(text)


def _is_number(text: str) -> bool:
    try:
        float(text)  # which knows 1_000, 1e-4, inf and nan too
    except ValueError:
        return False
    return True


def _quoted(text: str) -> str:
    """Return a text in Hydra's quotes, in which backslashes count only before a quote or ``${``."""
    for special, escaped in ((r"\$\{", r"\\${"), ('"', r'\\"'), (r"\Z", "")):
        text = re.sub(rf"(\\*){special}", rf"\1\1{escaped}", text)
    return f'"{text}"'


def _nullable(key: str) -> bool | None:
    """Return whether a key that is text may be null; None for a key that is not text."""
    key = key.lstrip("+")
    if HUB_TEXTS.fullmatch(key):
        return False
    return _text_keys().get(key)


@functools.cache
def _text_keys() -> dict[str, bool]:
    """Return the keys that are text -> whether they may be null."""
    of_job = {k: nullable for k, nullable in _text_fields(Job, "").items() if k not in CHOICES}
    of_tasks = {f"task.{k}": nullable for k, nullable in TASK_TEXTS.items()}
    return {**of_job, **of_tasks, "paths.outputs": False}


def _text_fields(node: type, prefix: str) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for name, hint in get_type_hints(node).items():
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        for option in options:
            if is_dataclass(option):
                found |= _text_fields(option, f"{prefix}{name}.")  # type: ignore[arg-type]
        if str in options:
            found[f"{prefix}{name}"] = NoneType in options
    return found
