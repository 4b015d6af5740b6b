"""Make table d9: coordinates recovered by route, over the width of the model."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation(
    "d9", "width of the model", "model.architecture.hidden_size", logarithmic=True, short="width"
)
TITLE, CAPTION, DETAILS, SUMMARY = TABLE.title, TABLE.caption, TABLE.details, TABLE.summary
tabulate, pivot, plot = TABLE.tabulate, TABLE.pivot, TABLE.plot
