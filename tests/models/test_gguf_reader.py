"""Settings of a GGUF file that cannot be read are errors that name the file."""

import pytest
from gguf import GGUFWriter

from gaugeport.models.gguf_files import describe_gguf
from gaugeport.models.gguf_reader import open_gguf, setting_of


@pytest.fixture
def file(tmp_path):
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_license("apache-2.0")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "m.gguf"


def test_settings_are_those_written_or_none(file):
    reader = open_gguf(file)
    assert setting_of(reader, "general.license", file) == "apache-2.0"
    assert setting_of(reader, "general.author", file) is None
    assert describe_gguf(file) == {"licence": "apache-2.0", "quantisation": ""}


def test_licence_that_is_no_text_is_named(file):
    file.write_bytes(file.read_bytes().replace(b"apache-2.0", b"\xffpache-2.0"))
    with pytest.raises(ValueError, match=r"m.gguf is damaged: its setting general.license cannot be read"):
        describe_gguf(file)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ValueError, match=r"a\.gguf is damaged or not a GGUF file: its version is 0"):
        open_gguf(tmp_path / "a.gguf")
    with pytest.raises(FileNotFoundError):
        open_gguf(tmp_path / "none.gguf")
