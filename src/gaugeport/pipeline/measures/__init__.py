"""Measures: the pure functions behind paper A's tables.

A measure takes models, tensors and batches, and returns flat rows ``{metric, value, …}``, one number each. It
knows no job, store or report. Functions whose names end in ``_rows`` return rows; the others are their parts.
Files in reading order, with the tables they serve:

Gauges and evidence: ``gauge_groups`` (a1), ``plants`` (the gauges planted on checkpoints),
``planted_evidence`` and ``self_evidence`` (evidence with a known gauge), ``conditions`` (a group and a
matcher on one kind of evidence), ``sign_ceiling`` (a2), ``recovery`` (a3, c2), ``confidence`` (c3),
``calibration`` (c5).
SAEs and maps: ``losses`` (held-out loss), ``sae_transfer`` (a4), ``maps`` and ``head_to_head`` (c1).
Steering: ``labelled_prompts``, ``answer_slot`` (log-odds after a prompt), ``steering_effects`` (a5),
``refusal_effects`` (a6).
Merging: ``merge_barriers`` (a7).
Optimizers: ``displacement``, ``noise_floor``, ``moved_checkpoints`` and ``adamw_resume`` (a8),
``optimizer_recipes``, ``optimizer_runs`` and ``optimizers`` (c4).
Index lists: ``importance`` (scores), ``list_agreement``, ``index_audit`` (a9), ``index_lists`` (a10).

May import the library, ``pipeline.data``, ``pipeline.job`` and ``pipeline.training``.
"""
