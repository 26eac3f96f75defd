"""Chaos: a workload against a fault plan, every byte and every promise checked.

`python -m tent.testing.chaos --sim --seeds N` (or `tent chaos`) draws a world, a workload and
faults from each seed and runs them on the simulated fabric, in virtual time, repeatable to the last
event.
`--plan FILE` runs a fault plan (tent.resilience.faults) there, `--real FILE` over real rails.
"""
