"""Resilience as specifications and data: when an endpoint is healthy, and what may befall it.

The engine heals itself natively (csrc/health, csrc/core); nothing here runs while bytes move.
"""
