"""Where the residual stream lives in a model: one declarative file per architecture family, one strict matcher."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaugeport.charts.certificate import Certificate, certify
    from gaugeport.charts.chart import Chart, chart_of
    from gaugeport.charts.fold import fold_gains

__all__ = ["Certificate", "Chart", "certify", "chart_of", "fold_gains"]

# no submodule is named like a function here: importing it would shadow the function
_HOME = {
    "Certificate": "certificate",
    "certify": "certificate",
    "Chart": "chart",
    "chart_of": "chart",
    "fold_gains": "fold",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"gaugeport.charts.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
