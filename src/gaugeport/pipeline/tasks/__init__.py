"""Tasks: one file each, named like its config in ``conf/task/``, with one ``TASK`` record.

Start with ``task`` (what the record holds) and ``registry`` (tasks by name); ``shared/`` has what several
tasks use.
Paper A: ``gauge_groups`` a1, ``sign_ceiling`` a2, ``recovery`` a3 and c2, ``sae`` a4, ``steering_sentiment``
a5, ``refusal`` a6, ``merge`` a7, ``adamw_resume`` a8, ``audit`` a9, ``indices`` a10. Paper B: ``bars`` b1,
``cross_seed`` b2, ``patching`` and ``blocks`` b3, ``lenses`` and ``dictionaries`` b4, ``universality`` b5,
``haar`` and ``haar_power`` b6, ``firing`` b7, ``regimes`` b8, ``checkpoints`` b9, ``joint_alignment`` b10,
``lengths`` b11, ``independence`` b12. Not in the papers: ``head_to_head`` c1, ``confidence`` c3,
``optimizers`` c4, ``decoder_cosine`` d11.

May import everything below ``tasks`` in ``pipeline``, never ``config``, ``execution`` or ``report``.
"""
