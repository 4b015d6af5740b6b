"""An option's name is never taken for the value of another."""

import pytest

from processes import answered


@pytest.mark.parametrize(
    ("line", "option", "got"),
    [
        ("align a b --out --json", "--out", "--json"),
        ("align a b --out g.safetensors --along runs --force", "--along", "--force"),
        ("transport sae s --out --gauge g.safetensors", "--out", "--gauge"),
        ("chart draft a --seed --json", "--seed", "--json"),
        ("certify a --seed --help", "--seed", "--help"),
        ("tables a1 --set --headline", "--set", "--headline"),
        ("tables a1 --set --no-run", "--set", "--no-run"),
        ("align a b --out --tokens=5", "--out", "--tokens=5"),
    ],
)
def test_options_are_no_values(line, option, got, tmp_path):
    code, _, err = answered(line.split(), tmp_path)
    text = " ".join(err.replace("│", " ").split())
    assert code == 2 and f"Invalid value for '{option}': expected a value, got the option {got};" in text
    assert f"a path of that name is given as ./{got}" in text and not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["--out=--json", "--out ./--json", "--out -json"])
def test_paths_that_look_like_options_can_be_named(out, tmp_path):
    for model in ("a", "b"):
        (tmp_path / model).mkdir()
    code, _, err = answered(["align", str(tmp_path / "a"), str(tmp_path / "b"), *out.split()], tmp_path)
    assert code == 2 and "no config.json" in err, "what is refused is the first model"
