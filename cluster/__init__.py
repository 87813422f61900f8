"""A real Kubernetes cluster for developing and testing corral, on any Linux machine.

Run as `python -m cluster`; README.md beside this file is for people.
"""
