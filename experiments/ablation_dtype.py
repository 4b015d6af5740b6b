"""Make table d8: coordinates recovered by route, over the precision of the activations."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d8", "precision of the activations", "measurement.dtype", short="precision")
TITLE, CAPTION, DETAILS, SUMMARY = TABLE.title, TABLE.caption, TABLE.details, TABLE.summary
tabulate, pivot, plot = TABLE.tabulate, TABLE.pivot, TABLE.plot
