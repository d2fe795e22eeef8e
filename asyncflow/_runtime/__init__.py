"""DRIVE: one pass of one run. The engine asks the scheduler, records its decisions, and acts on them."""
