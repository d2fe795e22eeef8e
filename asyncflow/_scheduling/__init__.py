"""DECIDE: what has happened in, what to do next out. No await, no clock, no I/O, no randomness."""
