"""Make table d5: coordinates recovered by route, over the fine-tuning learning rate."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d5", "fine-tuning learning rate", "training.run.lr", logarithmic=True, short="rate")
TITLE, CAPTION, DETAILS, SUMMARY = TABLE.title, TABLE.caption, TABLE.details, TABLE.summary
tabulate, pivot, plot = TABLE.tabulate, TABLE.pivot, TABLE.plot
