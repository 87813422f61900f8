"""``python -m corral.api.crd [--check]``: writes, or compares, the generated files."""

import argparse
import difflib
import sys
from pathlib import Path

from corral.api.crd.build import definition, to_yaml
from corral.api.crd.kinds import KINDS
from corral.api.crd.reference import reference

ROOT = Path(__file__).resolve().parents[4]


def files() -> dict[str, str]:
    """What is generated: path from the repository's root to text."""
    crds = {f"crds/{kind.plural}.yaml": to_yaml(definition(kind)) for kind in KINDS}
    return {**crds, "docs/reference/api.md": reference()}


def differences(root: Path) -> str:
    """A unified diff from what is on disk to what is generated; empty when they agree."""
    found: list[str] = []
    for name, wanted in files().items():
        path = root / name
        actual = path.read_text(encoding="utf-8") if path.exists() else ""
        found += difflib.unified_diff(
            actual.splitlines(keepends=True), wanted.splitlines(keepends=True), name, name
        )
    return "".join(found)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m corral.api.crd", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on a drift")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    options = parser.parse_args(arguments)
    if options.check:
        drift = differences(options.root)
        sys.stdout.write(drift)
        return 1 if drift else 0
    for name, text in files().items():
        path = options.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
