"""Run the command line as ``python -m gaugeport``."""

from gaugeport.pipeline.cli import main

main()
