"""What Metergate costs, beside its peers, in one run: ``python -m benchmarks``. Asserts nothing."""
