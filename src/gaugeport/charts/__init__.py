"""Where the residual stream lives in a model: one declarative file per architecture family, one strict matcher."""

from gaugeport.charts.certificate import Certificate, certify
from gaugeport.charts.chart import Chart, chart_of
from gaugeport.charts.fold import fold_gains

__all__ = ["Certificate", "Chart", "certify", "chart_of", "fold_gains"]
