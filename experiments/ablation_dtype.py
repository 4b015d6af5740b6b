"""Table d8: coordinates recovered by route, over the precision of the activations."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d8", "precision of the activations", "measurement.dtype")
TITLE, tabulate, pivot, plot = TABLE.title, TABLE.tabulate, TABLE.pivot, TABLE.plot
