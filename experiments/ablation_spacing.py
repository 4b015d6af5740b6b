"""Make table d1: coordinates recovered by route, over the checkpoint spacing."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d1", "steps between checkpoints", "measurement.spacing", short="spacing")
TITLE, CAPTION, DETAILS, SUMMARY = TABLE.title, TABLE.caption, TABLE.details, TABLE.summary
tabulate, pivot, plot = TABLE.tabulate, TABLE.pivot, TABLE.plot
