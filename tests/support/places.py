"""Where the checkout is, and the real artefacts beside it; tests that use them skip without."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "real"


def fetched_smollm2():
    """The folder that ``./run.sh fetch smollm2`` left in this checkout, or None."""
    sources = (ROOT / "outputs" / "store").glob("base-v1/*/source.json")
    return next((s.parent for s in sorted(sources) if "SmolLM2-135M-Instruct" in s.read_text()), None)
