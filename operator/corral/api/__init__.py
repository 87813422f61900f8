"""The resources of API group ``corral.dev`` and the contract between operator and worker.

Everything here is data: pydantic models from which the CRDs in ``crds/`` are generated, and the
constants (labels, reasons, error classes) that other layers share.
"""
