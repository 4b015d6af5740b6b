"""Table d5: coordinates recovered by route, over the fine-tuning learning rate."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d5", "fine-tuning learning rate", "training.run.lr", logarithmic=True)
TITLE, tabulate, pivot, plot = TABLE.title, TABLE.tabulate, TABLE.pivot, TABLE.plot
