"""Stages and records on disk, addressed by the hash of what decides them.

Files in reading order: ``store`` (build a stage once, atomically, under a lock), ``records`` (one JSON file
per job), ``versions`` (package versions, commit and machine, kept with both).

May import ``gaugeport.utils`` only.
"""
