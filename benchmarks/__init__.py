"""Benchmarks: the workloads, the libraries that run them, and the figures. `python -m benchmarks`, or `python3 noxfile.py -s bench`."""
