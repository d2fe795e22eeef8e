"""DRIVE: the only place that awaits. The engine asks the scheduler, records what it decides, and acts on it."""
