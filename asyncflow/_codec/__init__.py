"""ENCODE: convert values to bytes and back, equal and of the same types, or refuse them before writing. It knows no run and no storage."""
