"""Make table d4: coordinates recovered by route, over the evidence."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d4", "evidence", kinds=("site", "pooled", "both", "weights"))
TITLE, CAPTION, DETAILS, SUMMARY = TABLE.title, TABLE.caption, TABLE.details, TABLE.summary
tabulate, pivot, plot = TABLE.tabulate, TABLE.pivot, TABLE.plot
