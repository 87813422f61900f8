"""Container images as files: making, reading and thinning what `docker save` writes."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_OCI = "application/vnd.oci.image"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """This machine's architecture, as Go and images call it."""
    return _MACHINES.get(platform.machine(), platform.machine())


def pack(
    target: Path, tag: str, files: Mapping[str, Path | str], entrypoint: Sequence[str], user: str
) -> None:
    """Write an image of these files: the value is a file here, or the text of a symbolic link."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, source in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(source, str):
                member.type, member.linkname = tarfile.SYMTYPE, source
                tar.addfile(member)
            else:
                data = source.read_bytes()
                member.size, member.mode = len(data), 0o755
                tar.addfile(member, io.BytesIO(data))
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": list(entrypoint), "User": user},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": [f"{digest}.tar"]}])
    with tarfile.open(target, "w") as tar:
        for member_name, data in (
            (name, config),
            (f"{digest}.tar", layer.getvalue()),
            ("manifest.json", manifest.encode()),
        ):
            member = tarfile.TarInfo(member_name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@dataclass(frozen=True)
class Contents:
    """What a docker-archive says of its image: the config, and each layer's digest and file."""

    config: bytes
    layers: Mapping[str, str]

    @property
    def id(self) -> str:
        return _digest(self.config)


def read(archive: Path) -> Contents:
    """Look into a docker-archive of one image."""
    with tarfile.open(archive) as tar:
        manifest = json.loads(_member(tar, "manifest.json"))[0]
        config = _member(tar, manifest["Config"])
    digests = json.loads(config)["rootfs"]["diff_ids"]
    return Contents(config, dict(zip(digests, manifest["Layers"], strict=True)))


def thin(archive: Path, target: Path, tag: str, known: Set[str]) -> None:
    """Rewrite a docker-archive as an OCI archive that leaves out layers known at the other end.

    Their descriptors stay, so containerd takes them from what it has. That makes loading a
    changed image a matter of its last layers.
    """
    contents = read(archive)
    with tarfile.open(archive) as source, tarfile.open(target, "w") as tar:

        def add(name: str, data: IO[bytes], size: int) -> None:
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, data)

        def blob(kind: str, data: bytes) -> dict[str, Any]:
            digest = _digest(data)
            add(f"blobs/{digest.replace(':', '/')}", io.BytesIO(data), len(data))
            return {"mediaType": kind, "digest": digest, "size": len(data)}

        layers = []
        for digest, name in contents.layers.items():
            size = source.getmember(name).size
            layers.append({"mediaType": f"{_OCI}.layer.v1.tar", "digest": digest, "size": size})
            if digest not in known:
                file = source.extractfile(name)
                assert file is not None
                add(f"blobs/{digest.replace(':', '/')}", file, size)
        config = blob(f"{_OCI}.config.v1+json", contents.config)
        manifest = {"schemaVersion": 2, "config": config, "layers": layers}
        entry = blob(f"{_OCI}.manifest.v1+json", json.dumps(manifest).encode())
        entry["annotations"] = {"io.containerd.image.name": tag}
        for name, value in (
            ("index.json", {"schemaVersion": 2, "manifests": [entry]}),
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
        ):
            data = json.dumps(value).encode()
            add(name, io.BytesIO(data), len(data))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()
