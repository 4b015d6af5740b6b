"""Where the checkout lies, and the real artefacts beside it (absent on most machines: tests that use them skip)."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "real"
