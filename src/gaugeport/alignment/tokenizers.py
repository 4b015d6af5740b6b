"""Check that two tokenizers encode text alike, because activations are compared token by token."""

from __future__ import annotations

PROBES = (
    "The quick brown fox jumps over the lazy dog, and 'tis 3 o'clock already!",
    "THE QUICK BROWN FOX; The Quick Brown Fox; iPhone, McDonald, NaN, USA",
    "  two spaces, then a tab\tand a trailing space ",
    "one line\nanother\n\n\na third after blank lines\r\nand a carriage return\r",
    "0 1 23 456 7890 12345678901234567890 3.14159 1,000,000 1e-7 0x1F ½ ²",
    "déjà vu, naïve façade, Zürich, Straße, İstanbul, žluťoučký kůň, Ærøskøbing",
    "e\u0301 and \u00e9, \ufb01 and fi, \uff21 and A, \u00a0 (no-break) and \u200b (zero width)",
    "“curly” ‘quotes’ – en — em … ellipsis • bullet € £ ¥ © ™",
    "Привет, мир! Γειά σου Κόσμε! שלום עולם! مرحبا بالعالم! नमस्ते दुनिया!",
    "你好，世界。こんにちは世界！안녕하세요 세계! สวัสดีชาวโลก",
    "😀 👍🏽 👩\u200d👩\u200d👧 🇨🇭 ❤️",
    "def f(x):\n    return {k: v ** 2 for k, v in x.items() if v != -1}  # a comment\n",
    "https://example.org/a_b?c=d&e=%20#f user@example.org C:\\path\\to\\file",
    "<b>bold</b> <|text|> [word] {x} $x^2 + y_i \\leq \\frac{1}{2}$",
    "unfathomable antidisestablishmentarianism hippopotomonstrosesquippedaliophobia zzzzxqj",
    "\u0007\ufffd\ufeff\u00ad",
)
"""Texts on which tokenizers of different vocabularies, merges, normalizers or pre-tokenizers differ."""

SHOWN_IDS = 8
"""How many ids of each side an error shows."""


def check_tokenizers(tokenizer_a: object, tokenizer_b: object) -> None:
    """Check that two tokenizers encode every text of :data:`PROBES` to the same ids.

    Vocabularies are not compared: an entry that no text is encoded to, such as an added ``[PAD]``, does no
    harm, and equal vocabularies do not help if one tokenizer lowercases. Special tokens are not added,
    because both models read the same batches.

    Raises:
        TypeError: If one of them has no ``encode`` that takes ``add_special_tokens``.
        ValueError: If they differ; the message quotes the first text on which they do, and both encodings.
    """
    for probe in PROBES:
        ids_a, ids_b = (_encode(t, probe) for t in (tokenizer_a, tokenizer_b))
        if ids_a != ids_b:
            at = next(
                (i for i, (a, b) in enumerate(zip(ids_a, ids_b, strict=False)) if a != b),
                min(len(ids_a), len(ids_b)),
            )
            shown_a, shown_b = (ids[at : at + SHOWN_IDS] for ids in (ids_a, ids_b))
            raise ValueError(
                "A and B must share a tokenizer, because activations are compared token by token; they "
                f"encode {probe!r} differently from token {at} on: A {shown_a}, B {shown_b}"
            )


def _encode(tokenizer: object, text: str) -> list[int]:
    if not callable(getattr(tokenizer, "encode", None)):
        raise TypeError(f"expected a tokenizer with .encode, got a {type(tokenizer).__name__}")
    try:
        encoded = tokenizer.encode(text, add_special_tokens=False)  # type: ignore[attr-defined]
    except TypeError as e:
        raise TypeError(
            f"expected a tokenizer as of transformers or tokenizers, got a {type(tokenizer).__name__}: {e}"
        ) from e
    return [int(i) for i in getattr(encoded, "ids", encoded)]  # the tokenizers library returns an object
