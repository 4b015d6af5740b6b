"""Where the checkout is, and the real artefacts beside it; tests that use them skip without."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "real"
