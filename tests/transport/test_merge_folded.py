"""A folded and an unfolded model are not merged, and the reason is folding, not what it changed."""

import pytest
import torch

from gaugeport.charts import fold_gains
from gaugeport.pipeline.measures.gauge_groups import tiny_model
from gaugeport.transport.merge import merge
from gaugeport.transport.weight_alignment import align_weights
from processes import printed
from tiny_folders import write_model


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", torch.Generator().manual_seed(0), tie_word_embeddings=True).float()


def test_models_say_which_is_folded(model):
    folded = fold_gains(model)
    reason = r"models\[1\] is folded .*and models\[0\] is not: .*fold_gains\(models\[0\]\) first"
    with pytest.raises(ValueError, match=reason):
        merge([model, folded], [None, None])
    with pytest.raises(ValueError, match=r"base is folded .*fold_gains\(models\[0\]\) first"):
        merge([model], [None], method="task_arithmetic", base=folded)
    for a, b, which in ((model, folded, "B is folded"), (folded, model, "A is folded")):
        with pytest.raises(ValueError, match=f"{which} .*fold_gains"):
            align_weights(a, b)
    both = merge([folded, fold_gains(model)], [None, None]).model
    assert all(torch.equal(p, q) for p, q in zip(both.parameters(), folded.parameters(), strict=True))


def test_command_says_which_is_folded(model, tmp_path):
    a, b, out = (str(tmp_path / name) for name in ("a", "b", "out"))
    write_model(model, a)
    write_model(fold_gains(model), b)
    text = printed(["merge", a, b, "--out", out], tmp_path, code=2)
    assert "B is folded" in text and "fold_gains(A) first" in text and "tie_word_embeddings" not in text
    assert not (tmp_path / "out").exists()
