"""The common part of the database backends: one writer behind a queue, separate readers, leases, and connections open while in use."""
