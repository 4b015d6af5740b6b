"""Ids of jobs and keys of stages are hashes of their configs: a change of either orphans every stored record
and stage.

``declared_jobs.txt`` holds those of every declared job at the profiles below. Where a change is
meant (a new table, a new setting), write the file anew: ``python tests/pipeline/test_declared_jobs.py``.
"""

from pathlib import Path

import pytest

from gaugeport.pipeline.config.experiments import experiment, experiment_names
from gaugeport.pipeline.config.sweeps import jobs_of
from gaugeport.pipeline.job import job_id
from gaugeport.pipeline.stages.catalogue import STAGES
from gaugeport.pipeline.store.store import Store, digest
from gaugeport.pipeline.tasks.registry import stage_keys

KEPT = Path(__file__).with_name("declared_jobs.txt")
PROFILES = ("mini", "smoke", "toy", "real")
MACHINE_TEXTS = ("real",)
"""Profiles whose stages read ``data=docs``: their keys hold a digest of the docstrings that are installed."""


def declared(profile):
    """``job <id> <digest of its stages' folders>`` and ``stage <folder in the store>``, a line each.

    Of profiles in ``MACHINE_TEXTS`` only ``job <id>``.
    """
    jobs, folders, store = {}, set(), Store("/")
    for e in map(experiment, experiment_names()):
        for c in (*jobs_of(e, profile), *jobs_of(e, profile, headline=True)):
            if profile in MACHINE_TEXTS:
                jobs[job_id(c.job)] = ""
                continue
            stages = {s: str(store.path(STAGES[s].kind, key))[1:] for s, key in stage_keys(c.job).items()}
            jobs[job_id(c.job)] = digest(stages)[:8]
            folders |= set(stages.values())
    return [
        *(f"job {i} {stages}".strip() for i, stages in sorted(jobs.items())),
        *(f"stage {f}" for f in sorted(folders)),
    ]


@pytest.mark.parametrize("profile", PROFILES)
def test_job_ids_and_stage_keys_are_those_of_the_kept_records(profile):
    sections = KEPT.read_text().split("# ")
    kept = next(s for s in sections if s.startswith(f"{profile}\n")).splitlines()[1:]
    found = declared(profile)
    assert len(kept) > 100
    lost, new = sorted(set(kept) - set(found)), sorted(set(found) - set(kept))
    assert not lost and not new, f"{len(lost)} lost, e.g. {lost[:3]}; {len(new)} new, e.g. {new[:3]}"


if __name__ == "__main__":
    KEPT.write_text(
        "".join(f"# {profile}\n" + "".join(f"{line}\n" for line in declared(profile)) for profile in PROFILES)
    )
