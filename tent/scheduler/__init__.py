"""The scheduler as mathematics: what is possible on given rails, whoever decides.

Pure functions of integers, without an engine. The engine's own scheduler is csrc/sched.
"""
