"""Table d10: coordinates recovered by route, over the richness of the corpus."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d10", "share of its words that the grammar uses", "data.richness", logarithmic=True)
TITLE, tabulate, pivot, plot = TABLE.title, TABLE.tabulate, TABLE.pivot, TABLE.plot
