"""Table d4: coordinates recovered by route, over the evidence."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d4", "evidence", kinds=("site", "pooled", "both", "weights"))
TITLE, tabulate, pivot, plot = TABLE.title, TABLE.tabulate, TABLE.pivot, TABLE.plot
