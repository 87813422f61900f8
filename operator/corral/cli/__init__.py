"""The ``corral`` command: what a person runs in a terminal, and what starts in corral's pods.

Nothing is imported before it is needed: ``corral worker`` and ``corral operator`` must not pay for
the command line's libraries, and ``corral --help`` not for Kubernetes' client.
"""
