"""Make table d3: coordinates recovered by route, over the site."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d3", "site", everywhere=True)
TITLE, CAPTION, DETAILS, SUMMARY = TABLE.title, TABLE.caption, TABLE.details, TABLE.summary
tabulate, pivot, plot = TABLE.tabulate, TABLE.pivot, TABLE.plot
