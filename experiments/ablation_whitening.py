"""Table d7: coordinates recovered by route, over the whitening before matching."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d7", "whitened before matching", "measurement.whiten")
TITLE, tabulate, pivot, plot = TABLE.title, TABLE.tabulate, TABLE.pivot, TABLE.plot
