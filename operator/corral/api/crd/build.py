"""The CustomResourceDefinition of a kind."""

from typing import Any

import yaml

from corral.api.crd.kinds import CATEGORY, GROUP, VERSION, Column, Kind
from corral.api.crd.schema import REFERENCE, RULES, Node, inline, structural

NEVER_OBSERVED = -1
"""Without it kstatus takes an object that no operator has looked at yet for one that is ready."""
GENERATED = "# Generated from operator/corral/api, do not edit: make generate\n"


def definition(kind: Kind) -> Node:
    """The CRD as a dict, in the order that people expect."""
    version: Node = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        "schema": {"openAPIV3Schema": schema(kind)},
        "subresources": _subresources(kind),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "corral", "app.kubernetes.io/part-of": "corral"},
        },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.name,
                "listKind": kind.name + "List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": [kind.short],
                "categories": [CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def schema(kind: Kind) -> Node:
    """The whole object's schema."""
    objects = structural([model for model in (kind.spec, kind.status) if model])
    properties: Node = {"spec": inline({"$ref": REFERENCE + kind.spec.__name__}, objects)}
    if kind.status:
        reference = {"$ref": REFERENCE + kind.status.__name__}
        properties["status"] = {
            **inline(reference, objects, defaults=False),
            "default": {
                "observedGeneration": NEVER_OBSERVED,
                **({"phase": kind.phase} if kind.phase else {}),
            },
        }
    return {
        "description": kind.description,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": kind.name},
            "metadata": {"type": "object"},
            **properties,
        },
        RULES: [{"rule": rule, "message": message} for rule, message in kind.rules],
    }


def to_yaml(document: Node) -> str:
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return GENERATED + text


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _column(column: Column) -> Node:
    result: Node = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        result["description"] = column.description
    if column.wide:
        result["priority"] = 1
    return result


def _subresources(kind: Kind) -> Node:
    result: Node = {"status": {}} if kind.status else {}
    if kind.scale:
        result["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    return result
