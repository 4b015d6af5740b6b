"""Table d1: coordinates recovered by route, over the checkpoint spacing."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d1", "steps between checkpoints", "measurement.spacing")
TITLE, tabulate, pivot, plot = TABLE.title, TABLE.tabulate, TABLE.pivot, TABLE.plot
