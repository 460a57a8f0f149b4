"""Figures about a running gateway, for Prometheus.

Counting costs plain additions in the worker (`counting`). Once a second each worker writes what it has to a file
(`folder`); whoever is asked for the page adds all workers up, the dead ones included, so that a counter never goes back.
What the rooms report in their ``statistics()`` is turned into metrics by `samples`. No label names a subject.
"""

from metergate.gateway.metrics.worker import PAGE_PATH, Metrics

__all__ = ["PAGE_PATH", "Metrics"]
