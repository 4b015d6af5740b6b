"""Turn records into tables, figures, judged claims and one HTML page.

Files in reading order:

- ``tidy``: records to rows, means over training seeds, and the helpers that select rows.
- ``claims``: judge the claims of ``experiments/claims.yaml``.
- ``render``: write a table as csv, Markdown and LaTeX; format cells. ``figures``: what all figures share.
- ``conditions``, ``model_pairs``, ``lists``: names and colours of what is compared.
- ``ablation``, ``steering_tables``, ``sweep``, ``summary``: tables that several experiments share.
- ``tables``: one experiment's table, and the table of claims. ``page``: the HTML page of all of them.
- ``headline``, ``headline_figure``: the claims of the first command, on one screen and in one picture.

Nothing here trains or measures: a table is a function of records. This package may import
``gaugeport.pipeline.store``, ``paths``, ``job`` and the constants of ``rotation`` and ``measures``.
"""
