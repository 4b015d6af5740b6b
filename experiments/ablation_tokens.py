"""Make table d2: coordinates recovered by route, over the calibration tokens."""

from gaugeport.pipeline.report.ablation import Ablation

TABLE = Ablation("d2", "calibration tokens", "measurement.tokens", logarithmic=True, short="tokens")
TITLE, CAPTION, DETAILS, SUMMARY = TABLE.title, TABLE.caption, TABLE.details, TABLE.summary
tabulate, pivot, plot = TABLE.tabulate, TABLE.pivot, TABLE.plot
