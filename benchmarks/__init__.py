"""Accuracy, latency and parity of trackers, measured as the field measures them: ``python -m benchmarks``."""
