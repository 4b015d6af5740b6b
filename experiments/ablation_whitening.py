"""Make table d7: coordinates recovered by route, over the whitening before matching."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d7", "whitened before matching", "measurement.whiten", short="whitened")
TITLE, CAPTION, DETAILS, SUMMARY = TABLE.title, TABLE.caption, TABLE.details, TABLE.summary
tabulate, pivot, plot = TABLE.tabulate, TABLE.pivot, TABLE.plot
