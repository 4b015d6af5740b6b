"""The corpus of the English that comes with Python: what it holds, leaves out, and what its key says."""

import ast
import subprocess
import sys

import pytest
import torch

from gaugeport.pipeline.config.compose import compose_config, from_config
from gaugeport.pipeline.data import docs, docs_corpus, docs_digest
from gaugeport.pipeline.data.docs import FULL_DOCUMENT, SHORTEST_DOCUMENT, _grams, _paragraphs
from gaugeport.pipeline.stages import rows
from gaugeport.pipeline.stages.rows import data_key
from gaugeport.texts import sources

DOCUMENTS = 600


@pytest.fixture(scope="module")
def corpus():
    return docs_corpus(DOCUMENTS, 0.1)


def job(*overrides):
    fixed = [
        "profile=smoke",
        "tracker=none",
        "gauge=identity",
        "matcher=none",
        "route=endpoint",
        "task=recovery",
    ]
    return from_config(compose_config([*fixed, *overrides]), ()).job


def test_both_domains_have_documents_of_useful_length_to_train_on_and_held_out(corpus):
    for domain in (0, 1):
        train, held_out = corpus.texts("train", domain), corpus.texts("heldout", domain)
        assert 150 < len(train) + len(held_out) <= DOCUMENTS // 2
        # a held-out text that the training texts repeat is dropped: the share is at most what was asked for
        assert 0.05 < len(held_out) / (len(train) + len(held_out)) <= 0.11
        assert all(len(text) >= SHORTEST_DOCUMENT for text in (*train, *held_out))
        assert sum(map(len, train)) / len(train) > FULL_DOCUMENT / 2
    assert {d.kind for d in (*corpus.train, *corpus.heldout)} == {"text"}


def test_domains_are_the_language_reference_and_docstrings_of_three_packages(corpus):
    reference, docstrings = ("\n".join(corpus.texts("train", d)) for d in (0, 1))
    assert "augmented assignment" in reference and "augmented assignment" not in docstrings
    assert all(word in docstrings for word in ("ndarray", "scipy", "torch"))
    assert ">>> " not in docstrings


def test_first_held_out_documents_are_of_both_domains(corpus):
    """Losses are measured on the first rows of the held-out text."""
    assert {d.domain for d in corpus.heldout[:4]} == {0, 1}


def test_no_text_occurs_twice_in_or_between_splits_and_domains(corpus):
    texts = [d.text for d in (*corpus.train, *corpus.heldout)]
    assert len(set(texts)) == len(texts)
    paragraphs = [" ".join(p.lower().split()) for text in texts for p in text.split("\n\n")]
    assert len(set(paragraphs)) > 0.99 * len(
        paragraphs
    )  # those that differ in punctuation alone count as one


def test_no_held_out_text_is_nearly_one_that_is_trained_on(corpus):
    trained = set().union(*(_grams(text) for text in corpus.texts("train")))
    shares = []
    for text in corpus.texts("heldout"):
        grams = _grams(text)
        shares.append(len(grams & trained) / len(grams))
    assert max(shares) < 0.5 and sum(shares) / len(shares) < 0.1


def test_nearly_identical_paragraph_is_dropped_wherever_it_comes_from(monkeypatch):
    words = [f"word{i}" for i in range(2000)]
    texts = [" ".join(words[i : i + 200]) for i in range(0, 2000, 200)]
    near = [text.replace("word1", "other1", 1).upper() for text in texts]
    monkeypatch.setattr(docs, "topics", lambda: texts)
    monkeypatch.setattr(docs, "docstrings", lambda: iter([near, ["A. " + t[::-1] for t in texts]]))
    made = docs._docs_corpus.__wrapped__(40, 0.2)
    assert len(made.documents("train", 0)) + len(made.documents("heldout", 0)) == len(texts)
    second = made.texts("train", 1) + made.texts("heldout", 1)
    assert len(second) == len(texts) and all(text.startswith("A. ") for text in second)


def test_corpus_is_the_same_in_another_process(corpus):
    script = (
        "from gaugeport.pipeline.data import docs_corpus, docs_digest;"
        f"print(docs_digest(docs_corpus({DOCUMENTS}, 0.1)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == docs_digest(corpus)


def test_sources_are_parsed_and_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "a_package"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text(
        '"""What the package does."""\nraise SystemExit("it was imported")\n'
    )
    (package / "tests" / "test_it.py").write_text('"""A test of it."""\n')
    (package / "broken.py").write_text('"""Python of the future."""\ndef f(:\n')
    (package / "m.py").write_text(
        'class C:\n    """\n    A class.\n\n        More.\n    """\n\n'
        '    def f(self):\n        """A method."""\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sources, "PARTS", {"a_package": (".",)})
    assert sorted(sources.docstrings()) == [
        ["A class.\n\n    More.", "A method."],
        ["What the package does."],
    ]
    assert "a_package" not in sys.modules


def test_missing_package_is_named_with_what_to_use_instead(monkeypatch):
    monkeypatch.setattr(sources, "PARTS", {"no_such_package": (".",)})
    with pytest.raises(FileNotFoundError, match=r"no_such_package.*data=text data\.path=FILE"):
        list(sources.docstrings())


def test_topics_are_those_that_python_prints():
    from pydoc_data.topics import topics

    assert sources.topics() == list(topics.values())


def test_examples_and_signatures_are_not_prose():
    text = (
        "f(x, out=None) -> Tensor\n\nReturn the sine.\n\nExamples\n--------\n>>> f(0)\n0.0\n\n"
        "It is odd.\n\n>>> f(-1)\n-0.84\n\nExample::\n\n    >>> f(1)\n\n"
        "It is slow:\n    >>> f(2)\n\nNotes\n-----\nSlow."
    )
    assert _paragraphs(text) == ["Return the sine.", "It is odd.", "It is slow:", "Notes\n-----\nSlow."]


@pytest.mark.parametrize(
    ("documents", "heldout", "message"), [(5, 0.1, "=5.*6 or more"), (9, 1.0, "=1.0.*below 1")]
)
def test_impossible_sizes_are_refused(documents, heldout, message):
    with pytest.raises(ValueError, match=message):
        docs_corpus(documents, heldout)


def test_data_key_holds_the_digest_of_the_texts(monkeypatch, corpus):
    one = job("data=docs", f"data.documents={DOCUMENTS}")
    key = data_key(one)
    assert key["files"] == {"data.docs": docs_digest(corpus)}
    assert data_key(job("data=mini"))["files"] == {}
    changed = type(corpus)(corpus.train[1:], corpus.heldout)
    monkeypatch.setattr(rows, "docs_corpus", lambda documents, heldout: changed)
    assert data_key(one)["files"] != key["files"]


def test_rows_of_a_job_hold_both_domains(tmp_path):
    rows.build_data(job("data=docs", f"data.documents={DOCUMENTS}", "data.length=64"), {}, tmp_path)
    first, second = rows.train_rows(tmp_path)
    calibration, measured = rows.heldout_rows(tmp_path)
    assert first.shape[1] == second.shape[1] == 64 and min(len(first), len(second)) > 400
    assert min(len(calibration), len(measured)) > 20 and first.dtype == torch.int64


def test_docs_take_no_path(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(ValueError, match=r"data\.path=.*data=text"):
        job("data=docs", f"data.path={tmp_path / 'a.txt'}")


def test_unknown_data_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match=r"data\.name='nope'.*docs, dyck3, hub, mini, text"):
        job("data=docs", "data.name=nope")


def test_nearly_all_files_can_be_parsed():
    """A file that cannot is skipped, so none would be missed."""
    unread = 0
    for _, path in list(sources._files())[::25]:
        try:
            ast.parse(path.read_text(encoding="utf8"))
        except SyntaxError:
            unread += 1
    assert unread <= 1
