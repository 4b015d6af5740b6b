"""Make table d10: coordinates recovered by route, over the richness of the corpus."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation(
    "d10", "share of its words that the grammar uses", "data.richness", logarithmic=True, short="share"
)
TITLE, CAPTION, DETAILS, SUMMARY = TABLE.title, TABLE.caption, TABLE.details, TABLE.summary
tabulate, pivot, plot = TABLE.tabulate, TABLE.pivot, TABLE.plot
