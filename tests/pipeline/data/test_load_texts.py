"""Loading of corpora: disjoint splits, clear errors, no network and no stale cache."""

import json
import os
import socket
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import datasets
import pytest

from gaugeport.pipeline.data import Corpus, hub_corpus, mini_corpus, prompt_corpus, text_corpus

TEXTS = [f"document {i} , with a comma" for i in range(20)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write(path: Path, texts: list[str], field: str = "text", labels: list[Any] | None = None) -> Path:
    rows = [{field: text} | ({"label": labels[i]} if labels else {}) for i, text in enumerate(texts)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".txt":
        path.write_text("\n".join(texts) + "\n")
    elif path.suffix == ".csv":
        datasets.Dataset.from_list(rows).to_pandas().to_csv(path, index=False)
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    return path


def everything(corpus: Corpus) -> list[str]:
    return corpus.texts("train") + corpus.texts("heldout")


def test_mini_corpus() -> None:
    corpus = mini_corpus(1001, seed=0)
    assert corpus == mini_corpus(1001, seed=0) != mini_corpus(1001, seed=1)
    assert len(everything(corpus)) == len(set(everything(corpus))) == 1001
    assert len(corpus.texts("heldout")) == pytest.approx(100, abs=4)
    for split in ("train", "heldout"):
        assert sorted(corpus.texts(split)) == sorted(corpus.texts(split, 0) + corpus.texts(split, 1))
        for domain, other in enumerate(("review", "request")):
            kinds = Counter(document.kind for document in corpus.documents(split, domain))
            assert set(kinds) == {"story", other}
            assert kinds["story"] / sum(kinds.values()) == pytest.approx(0.6, abs=0.03)
        for kind in ("review", "request"):
            labels = Counter(document.label for document in corpus.labelled(kind, split))
            assert abs(labels[0] - labels[1]) <= (split == "train")


def test_smallest_mini_corpus_has_every_kind() -> None:
    corpus = mini_corpus(20, seed=0)
    for split in ("train", "heldout"):
        assert {document.label for document in corpus.labelled("review", split)} == {0, 1}
        assert {document.label for document in corpus.labelled("request", split)} == {0, 1}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", ".parquet"])
def test_files_round_trip(tmp_path: Path, suffix: str) -> None:
    corpus = text_corpus(write(tmp_path / f"data[1]*{suffix}", TEXTS), heldout=0.2)
    assert sorted(everything(corpus)) == sorted(TEXTS)
    assert len(corpus.texts("heldout")) == 4
    assert corpus.texts("train", 0) + corpus.texts("train", 1) == corpus.texts("train")
    assert corpus.texts("train") == [text for text in TEXTS if text not in corpus.texts("heldout")]
    assert len(corpus.texts("train", 0)) == len(corpus.texts("train", 1)) == 8
    assert {document.kind for document in corpus.documents("train")} == {"text"}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
def test_changed_file_is_read_again(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"data{suffix}", TEXTS)
    text_corpus(path)
    before = path.stat()
    write(path, [text.replace("document", "letter--") for text in TEXTS])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert all(text.startswith("letter--") for text in everything(text_corpus(path)))


def test_labels_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", TEXTS, "sentence", labels=[i % 2 for i in range(20)])
    corpus = text_corpus(path, field="sentence", kind="review", label="label")
    documents = corpus.labelled("review", "train") + corpus.labelled("review", "heldout")
    assert {document.text: document.label for document in documents} == {
        text: i % 2 for i, text in enumerate(TEXTS)
    }
    unlabelled = text_corpus(
        write(tmp_path / "x.jsonl", TEXTS, labels=[-1] * 20), kind="review", label="label"
    )
    with pytest.raises(ValueError, match="no labelled 'review' in the train split; labelled kinds: none"):
        unlabelled.labelled("review", "train")


def test_text_with_both_labels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, labels = ["fine", "bad", "good", "fine", "odd", "bad"], [1, 0, -1, 0, 1, 0]
    with pytest.raises(ValueError, match=r"both labels to 1 of its texts, in row 4 to 'fine'; allowed: one"):
        text_corpus(write(tmp_path / "data.csv", texts, labels=labels), kind="review", label="label")
    rows = [{"sentence": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: iter(rows))
    with pytest.warns(UserWarning, match="in row 4 to 'fine'; they are left out"):
        of_hub = hub_corpus("a/b", field="sentence", label="label")
    assert sorted(everything(of_hub)) == ["bad", "good", "odd"], "nobody can mend a dataset of the hub"


def test_row_that_labels_a_repeated_text_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", ["a", "b", "c", "a", "b"], labels=[-1, 1, 0, 1, -1])
    corpus = text_corpus(path, kind="review", label="label")
    assert {d.text: d.label for d in corpus.train + corpus.heldout} == {"a": 1, "b": 1, "c": 0}


def test_texts_that_look_like_missing_values(tmp_path: Path) -> None:
    texts = ["NA", "null", "None", "nan", 'a "quoted"\nsecond line']
    assert sorted(everything(text_corpus(write(tmp_path / "data.csv", texts)))) == sorted(texts)


def test_lines_of_a_txt(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("one\n\n  \ntwo\u2028still two\r\nthree", newline="")
    assert sorted(everything(text_corpus(path))) == ["one", "three", "two\u2028still two"]


def test_repeated_texts_count_once(tmp_path: Path) -> None:
    corpus = text_corpus(write(tmp_path / "data.jsonl", [text for text in TEXTS for _ in range(3)]))
    assert sorted(everything(corpus)) == sorted(TEXTS)


def test_max_documents(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", TEXTS)
    assert sorted(everything(text_corpus(path, max_documents=5))) == TEXTS[:5]
    with pytest.raises(ValueError, match="max_documents=0; allowed: 1 or more"):
        text_corpus(path, max_documents=0)


def test_prompt_corpus(tmp_path: Path) -> None:
    harmless = write(tmp_path / "harmless.jsonl", TEXTS, "instruction")
    harmful = write(tmp_path / "harmful.jsonl", [f"bad {text}" for text in TEXTS], "instruction")
    corpus = prompt_corpus(harmless, harmful)
    for split in ("train", "heldout"):
        assert all(d.label == int(d.text.startswith("bad")) for d in corpus.labelled("request", split))
        for domain in (0, 1):
            assert {d.label for d in corpus.documents(split, domain)} == {0, 1}
    with pytest.raises(ValueError, match="20 instructions are in both"):
        prompt_corpus(harmless, harmless)


def test_file_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"does not exist: .*nowhere.jsonl"):
        text_corpus(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match=r"extension '.docx'; allowed: .jsonl, .csv, .txt, .parquet"):
        text_corpus(tmp_path / "data.docx")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ValueError, match="is not a file"):
        text_corpus(tmp_path / "folder.txt")
    for suffix in (".jsonl", ".csv", ".txt"):
        empty = tmp_path / f"empty{suffix}"
        empty.touch()
        with pytest.raises(ValueError, match=f"empty{suffix} is empty"):
            text_corpus(empty)
    blank = tmp_path / "blank.txt"
    blank.write_text("\n\n")
    with pytest.raises(ValueError, match=r"blank.txt has no documents"):
        text_corpus(blank)
    header = tmp_path / "header.csv"
    header.write_text("text,label\n")
    with pytest.raises(ValueError, match=r"header.csv has no documents"):
        text_corpus(header)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n{"text": oops}\n')
    with pytest.raises(ValueError, match=r"bad.jsonl cannot be read as .jsonl: .*row 1"):
        text_corpus(bad)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"binary.txt cannot be read as .txt"):
        text_corpus(binary)


def test_row_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", TEXTS, labels=[2] * 20)
    with pytest.raises(ValueError, match="has no field 'story'; allowed: text, label"):
        text_corpus(path, field="story")
    with pytest.raises(ValueError, match="has no field 'mood'; allowed: text, label"):
        text_corpus(path, label="mood")
    with pytest.raises(ValueError, match="row 1: expected text in field 'label', got int"):
        text_corpus(path, field="label")
    with pytest.raises(ValueError, match="row 1: label=2; allowed: 0, 1, or -1"):
        text_corpus(path, label="label")
    with pytest.raises(ValueError, match="row 3: the document is empty"):
        text_corpus(write(tmp_path / "gap.jsonl", ["a", "b", " ", "c"]))
    missing = tmp_path / "missing.jsonl"
    missing.write_text('{"text": "a"}\n{"other": "b"}\n')
    with pytest.raises(ValueError, match="row 2: the document is empty"):
        text_corpus(missing)
    with pytest.raises(ValueError, match="has 2 different documents; allowed: 3 or more"):
        text_corpus(write(tmp_path / "two.jsonl", ["a", "b", "a"]))
    with pytest.raises(ValueError, match=r"heldout=1.0; allowed: above 0, below 1"):
        text_corpus(path, heldout=1.0)


def test_corpus_errors() -> None:
    corpus = mini_corpus(20, seed=0)
    with pytest.raises(ValueError, match="split='test'; allowed: train, heldout"):
        corpus.texts("test")
    with pytest.raises(ValueError, match="domain=2; allowed: 0, 1, None"):
        corpus.texts("train", 2)
    with pytest.raises(ValueError, match="kind='poem'; allowed"):
        corpus.labelled("poem", "train")
    with pytest.raises(
        ValueError, match="no labelled 'story' in the train split; labelled kinds: request, review"
    ):
        corpus.labelled("story", "train")
    with pytest.raises(ValueError, match="n_documents=19"):
        mini_corpus(19, seed=0)
    with pytest.raises(ValueError, match=r"heldout=0.6"):
        mini_corpus(20, seed=0, heldout=0.6)


def test_hub_corpus_reads_no_more_rows_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(**options: Any) -> Any:
        asked.update(options)
        # endless: max_documents must stop it
        return ({"sentence": f"text {i}", "label": i % 2} for i in count())

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = hub_corpus(
        "stanfordnlp/sst2", "train", "sentence", max_documents=30, kind="review", label="label"
    )
    assert len(everything(corpus)) == 30
    assert len(corpus.labelled("review", "heldout")) == 3
    assert asked == {
        "path": "stanfordnlp/sst2",
        "name": None,
        "split": "train",
        "streaming": True,
        "revision": None,
    }


@pytest.mark.parametrize(
    "error", [ConnectionError("unreachable"), datasets.exceptions.DatasetNotFoundError("gone")]
)
@pytest.mark.parametrize("late", [False, True])
def test_hub_failure_names_the_dataset_and_the_local_settings(
    monkeypatch: pytest.MonkeyPatch, error: Exception, late: bool
) -> None:
    def load_dataset(**options: Any) -> Any:
        def rows() -> Any:
            yield {"text": "a"}
            raise error

        if not late:
            raise error
        return rows()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ConnectionError) as caught:
        hub_corpus("monology/pile-uncopyrighted", "train", "text", config="small")
    message = str(caught.value)
    for part in (
        "'monology/pile-uncopyrighted'",
        "'small'",
        "'train'",
        "'text'",
        "data=text data.path=FILE",
        ".jsonl",
    ):
        assert part in message
    assert str(error) in message and caught.value.__cause__ is error


def test_hub_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the installed ``datasets`` in offline mode."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=r"pile-uncopyrighted'.*data=text data.path=FILE"):
        hub_corpus("monology/pile-uncopyrighted")


def test_hub_wrong_split_keeps_its_own_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(**options: Any) -> NoReturn:
        raise ValueError("Bad split: tran. Available splits: ['train']")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match="Available splits"):
        hub_corpus("stanfordnlp/sst2", "tran")
