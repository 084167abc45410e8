"""Measurements, as ratios within one run where there is something to compare with.

``python -m benchmarks`` runs all of them and writes ``docs/benchmarks.md``; ``python -m benchmarks listing`` one.
Nothing here is asserted: timings depend on the machine.
"""
