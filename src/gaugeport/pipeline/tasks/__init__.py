"""From a job to its task: what stages it stands on, and how its measurement is fed from them. One file per task."""
