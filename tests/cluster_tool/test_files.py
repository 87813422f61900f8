"""The parts of `python -m cluster` that need no cluster: names, numbers, caches and archives."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cluster import archive, cache, claim, paths, pki


@pytest.mark.parametrize("name", ["", "bin", "kubeconfig", "../x", "Upper", "-a", "a" * 31])
def test_a_name_is_one_folder_of_its_own(name: str) -> None:
    with pytest.raises(paths.ClusterError):
        paths.Home(name)


def test_only_the_default_cluster_has_the_short_path() -> None:
    assert paths.Home("corral").kubeconfig == paths.STATE / "kubeconfig"
    assert paths.Home("other").kubeconfig == paths.STATE / "other" / "kubeconfig"


def test_ruins_of_a_record_are_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "STATE", tmp_path)
    home = paths.Home("ruin")
    assert home.read() == {}
    home.write(provider="embedded")
    home.write(pid=7)
    assert home.read() == {"provider": "embedded", "pid": 7}
    home.record.write_text('{"provider": ')
    assert home.read() == {}


def test_a_cached_folder_appears_whole_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CACHE", tmp_path)
    made: list[Path] = []

    def fails(folder: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError

    def works(folder: Path) -> None:
        made.append(folder)
        (folder / "whole").touch()

    with pytest.raises(RuntimeError):
        cache.cached("thing", "1", fails)
    for _ in range(2):
        assert [p.name for p in cache.cached("thing", "1", works).iterdir()] == ["whole"]
    assert len(made) == 1
    for key in "234":
        cache.cached("thing", key, works)
    assert sorted(p.name for p in tmp_path.glob("thing-*")) == ["thing-2", "thing-3", "thing-4"]


def test_a_number_belongs_to_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_CLAIMS", tmp_path / "claims")
    monkeypatch.setattr(claim, "_routed", lambda: [claim.Numbers(1).network])
    one, other = tmp_path / "one", tmp_path / "other"
    assert claim.take(one).device == "corral-2"  # 10.99.1.0/24 is in use by something else
    assert claim.take(other).node == "10.99.3.2"
    assert [numbers.number for numbers in claim.of(one)] == [2]
    claim.free(claim.of(one)[0])
    assert claim.take(other).number == 2
    for numbers in claim.of(other):
        claim.free(numbers)
    assert not (tmp_path / "claims").exists()


def test_certificates_are_signed_by_their_authority() -> None:
    ca = pki.authority("ca")
    server = pki.server(ca, "api", ["kubernetes", "10.96.0.1"])
    server.certificate.verify_directly_issued_by(ca.certificate)
    assert isinstance(server.key.curve, ec.SECP256R1)
    client = pki.client(ca, "system:node:n", ["system:nodes"])
    assert client.certificate.subject.rfc4514_string() == "CN=system:node:n,O=system:nodes"


def test_a_thin_archive_leaves_out_only_what_is_known(tmp_path: Path) -> None:
    config, layers = _docker_archive(tmp_path / "image.tar", [b"base", b"source"])
    contents = archive.read(tmp_path / "image.tar")
    assert contents.id == _digest(config)
    assert list(contents.layers) == layers

    archive.thin(tmp_path / "image.tar", tmp_path / "thin.tar", "localhost/x:dev", {layers[0]})
    with tarfile.open(tmp_path / "thin.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert _blob(layers[0]) not in members
    assert members[_blob(layers[1])] == b"source"
    entry = json.loads(members["index.json"])["manifests"][0]
    assert entry["annotations"] == {"io.containerd.image.name": "localhost/x:dev"}
    manifest = json.loads(members[_blob(entry["digest"])])
    assert [layer["digest"] for layer in manifest["layers"]] == layers
    assert members[_blob(manifest["config"]["digest"])] == config


def test_a_packed_image_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"#!")
    files: dict[str, Path | str] = {"bin/program": tmp_path / "program", "bin/sh": "program"}
    archive.pack(tmp_path / "image.tar", "localhost/x:dev", files, ["/bin/program"], "1:1")
    contents = archive.read(tmp_path / "image.tar")
    assert json.loads(contents.config)["config"] == {"Entrypoint": ["/bin/program"], "User": "1:1"}
    (digest, name), *more = contents.layers.items()
    assert not more
    with tarfile.open(tmp_path / "image.tar") as tar:
        layer = tar.extractfile(name)
        assert layer is not None
        assert _digest(layer.read()) == digest


def _docker_archive(path: Path, layers: list[bytes]) -> tuple[bytes, list[str]]:
    digests = [_digest(layer) for layer in layers]
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": digests}}).encode()
    names = [f"{number}.tar" for number in range(len(layers))]
    manifest = [{"Config": "c.json", "RepoTags": ["localhost/x:dev"], "Layers": names}]
    with tarfile.open(path, "w") as tar:
        for name, data in [
            *zip(names, layers, strict=True),
            ("c.json", config),
            ("manifest.json", json.dumps(manifest).encode()),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return config, digests


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"
