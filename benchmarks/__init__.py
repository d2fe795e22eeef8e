"""How fast it is: the work, the ways to do it, and the figures. `python -m benchmarks`, or `python3 noxfile.py -s bench`."""
