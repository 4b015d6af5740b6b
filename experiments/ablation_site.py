"""Table d3: coordinates recovered by route, over the site."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d3", "site", everywhere=True)
TITLE, tabulate, pivot, plot = TABLE.title, TABLE.tabulate, TABLE.pivot, TABLE.plot
