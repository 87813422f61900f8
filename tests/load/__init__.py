"""Load on a cluster with corral installed: ``python -m tests.load``."""
