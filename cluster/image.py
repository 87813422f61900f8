"""The project's image: built once per change of its inputs, kept as an archive, loaded once."""

from __future__ import annotations

import configparser
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import archive, packages, providers
from cluster.cache import cached, fingerprint
from cluster.paths import CACHE, REPO, ClusterError, Home
from cluster.providers import Provider
from cluster.shell import locked, run, step, works

_INPUTS = ("Dockerfile", ".dockerignore", "requirements/runtime.txt", "pyproject.toml", "LICENSE")

# Where no registry can be asked for a base image, Debian's packages make one.
_SUITE = "bookworm"
_BASE = (
    "--variant=minbase",
    "--include=python3,python3-venv,ca-certificates",
    "--aptopt=Acquire::Languages none",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)

# How pip finds packages; other settings of this machine are not the image's business.
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "cert", "timeout")
_PIP_FILES = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")


def build(tag: str) -> Path:
    """The image as an archive, built if its inputs have changed."""
    return _folder(tag) / "image.tar"


def load(home: Home, tag: str) -> None:
    """Give a cluster the image, unless it has this very one."""
    path = build(tag)
    contents = archive.read(path)
    loaded: dict[str, str] = home.read().get("images", {})
    layers: list[str] = home.read().get("layers", [])
    if loaded.get(tag) == contents.id:
        return
    with step(f"loading {tag} into {home.name}"):
        if not _load_thin(home, path, tag, layers):
            providers.load(home, path)
    # The layers of the last image only: containerd may delete what no image refers to.
    home.write(images=loaded | {tag: contents.id}, layers=list(contents.layers))


def _load_thin(home: Home, path: Path, tag: str, layers: list[str]) -> bool:
    """Load only what the cluster lacks, if it has a part and takes the rest that way."""
    if not layers or home.read().get("provider") != Provider.EMBEDDED:
        return False
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        rest = Path(folder) / "thin.tar"
        archive.thin(path, rest, tag, set(layers))
        try:
            providers.load(home, rest)
        except ClusterError:
            return False
    return True


def _folder(tag: str) -> Path:
    files = [REPO / name for name in _INPUTS]
    files += [
        path
        for path in (REPO / "operator" / "corral").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    if providers.docker_answers():
        return cached("image", fingerprint(files, "docker", tag), lambda to: _docker(to, tag))
    packages.need(packages.IMAGES)
    base = fingerprint([], _SUITE, *_BASE)
    key = fingerprint(files, "buildah", base, tag)
    return cached("image", key, lambda to: _buildah(to, tag, base))


def _docker(target: Path, tag: str) -> None:
    environment = os.environ | {"DOCKER_BUILDKIT": "1"}
    with step(f"building {tag} with Docker"), _secrets() as secrets:
        run(["docker", "build", "--tag", tag, *secrets, REPO], env=environment)
        run(["docker", "save", "--output", target / "image.tar", tag])


def _buildah(target: Path, tag: str, base: str) -> None:
    base_image = _base(base)
    with step(f"building {tag} with buildah"), _secrets() as secrets:
        # In a chroot on the host's network: needs no container network, nor a registry.
        options = ["--isolation=chroot", "--network=host", "--pull-never", "--layers"]
        options += [f"--build-arg=BASE_IMAGE={base_image}", f"--tag={tag}", *secrets]
        run([*_store(), "build", *options, REPO], log=CACHE / "image-build.log")
    with step("packing it"):
        run([*_store(), "push", tag, f"docker-archive:{target / 'image.tar'}:{tag}"])


def _base(key: str) -> str:
    """A base image with Debian's Python."""
    image = f"localhost/python-base:{key}"
    if works([*_store(), "inspect", "--type=image", image]):
        return image

    def make(folder: Path) -> None:
        with step(f"making a base image of Debian {_SUITE} (once)"):
            run(["mmdebstrap", *_BASE, _SUITE, folder / "base.tar"])

    tarball = cached("base", key, make, keep=1) / "base.tar"
    with step("storing the base image"), locked(CACHE / "base-image.lock", "another build"):
        container = run([*_store(), "from", "scratch"]).strip()
        root = run([*_store(), "mount", container]).strip()
        run(["tar", "--extract", f"--file={tarball}", f"--directory={root}", "--exclude=./dev/*"])
        run([*_store(), "umount", container])
        run([*_store(), "config", "--cmd=python3", container])
        run([*_store(), "commit", "--rm", container, image])
    return image


def _store() -> list[str]:
    """buildah with a store of our own: it goes with the cache."""
    root = CACHE / "buildah"
    root.mkdir(parents=True, exist_ok=True)
    overlaid = run(["stat", "--file-system", "--format=%T", root]).strip() == "overlayfs"
    driver = "vfs" if overlaid else "overlay"
    where = [f"--root={root}", "--runroot=/run/corral-buildah"]
    return ["buildah", *where, f"--storage-driver={driver}"]


@contextmanager
def _secrets() -> Iterator[list[str]]:
    """How this machine reaches its package index, for the build but not for the image."""
    settings = _pip_settings()
    with tempfile.TemporaryDirectory() as folder:
        options = []
        certificate = Path(settings.get("cert", ""))
        if certificate.is_file():
            options.append(f"--secret=id=ca,src={certificate}")
            settings["cert"] = "/run/secrets/ca"
        else:
            settings.pop("cert", None)
        file = configparser.RawConfigParser()
        file["global"] = settings
        with (Path(folder) / "pip.conf").open("w") as out:
            file.write(out)
        yield [*options, f"--secret=id=pip,src={folder}/pip.conf"]


def _pip_settings() -> dict[str, str]:
    found = configparser.RawConfigParser()
    found.read([os.environ.get("PIP_CONFIG_FILE", ""), *map(os.path.expanduser, _PIP_FILES)])
    settings = {
        name: value
        for section in ("global", "install")
        if found.has_section(section)
        for name, value in found.items(section)
    }
    for name in _PIP_SETTINGS:
        variable = f"PIP_{name.upper().replace('-', '_')}"
        if value := os.environ.get(variable):
            settings[name] = value
    return {name: value for name, value in settings.items() if name in _PIP_SETTINGS}
