"""``python -m gaugeport`` is the command ``gaugeport``."""

from gaugeport.pipeline.cli import main

main()
