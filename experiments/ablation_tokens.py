"""Table d2: coordinates recovered by route, over the calibration tokens."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d2", "calibration tokens", "measurement.tokens", logarithmic=True)
TITLE, tabulate, pivot, plot = TABLE.title, TABLE.tabulate, TABLE.pivot, TABLE.plot
