"""Run the command line as ``python -m gaugeport``."""

from gaugeport.cli import main

main()
