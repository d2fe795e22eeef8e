"""OPERATE: what each call does with a run, by the run's status in its backend: kickoff, resume, load, fork, cancel."""
