"""Generates the CRDs and the API reference from the models of ``corral.api``.

Run as ``python -m corral.api.crd``. Nothing else imports it, so that the operator doesn't pay for
it at start.
"""
