"""Runs a Workflow in this process, without a cluster: the operator's planner, a worker's runtime.

What differs from a cluster: attempts run as tasks of one event loop, keys come from environment
variables, and nothing survives the end of the process.
"""
