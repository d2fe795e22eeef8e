"""DECIDE: from what has happened, decide what to do next. No await, no clock, no I/O, no randomness."""
