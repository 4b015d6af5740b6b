"""Stages: what several jobs share, each built once and kept in the store.

Files in reading order: ``stage`` (what a stage is), ``catalogue`` (all of them, and the function that builds
them);
then what they hold: ``rows`` (tokenized texts), ``base`` (base models), ``runs`` (fine-tuning runs A and B),
``evidence`` (between planted checkpoints), ``saes``, ``lists`` (importance scores), ``cohorts`` (Dyck-3
models), ``pairs`` (the two models a rotation task compares), ``pair_saes`` (SAEs of either).

A stage names the stages it requires and is given their folders: no function here builds another stage.
May import the library, ``pipeline.store``, ``data``, ``training``, ``measures`` and ``rotation``.
"""
