"""The commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from cluster import providers
from cluster.embedded import COMPONENTS
from cluster.paths import DEFAULT_NAME, KUBECTL, STATE, ClusterError, Home, known
from cluster.providers import Provider
from cluster.shell import fail, locked, say

app = typer.Typer(
    help="A real Kubernetes cluster for developing and testing corral.",
    no_args_is_help=True,
    add_completion=False,
)
images = typer.Typer(help="The project's image, without a registry.", no_args_is_help=True)
app.add_typer(images, name="image")

Name = Annotated[str, typer.Option("--name", help="Which cluster.")]
Tag = Annotated[str, typer.Option("--tag", help="The image's name.")]

_TAG = "localhost/corral:dev"


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (ClusterError, PermissionError) as error:
        fail(error)
        raise typer.Exit(1) from error


@contextmanager
def _alone(name: str) -> Iterator[Home]:
    """The cluster, which no other process starts or takes down meanwhile."""
    with _errors():
        home = Home(name)
        with locked(STATE / f"{name}.lock", f"another process that works on {name}"):
            yield home
    if STATE.is_dir() and not any(STATE.iterdir()):
        STATE.rmdir()


@app.command()
def up(
    name: Name = DEFAULT_NAME,
    provider: Annotated[
        Provider, typer.Option(envvar="CLUSTER", help="Who makes it.")
    ] = Provider.AUTO,
) -> None:
    """Start a cluster; nothing happens where it is up."""
    with _alone(name) as home:
        providers.up(home, provider)
        print(home.kubeconfig)


@app.command()
def down(
    name: Name = DEFAULT_NAME,
    everything: Annotated[bool, typer.Option("--all", help="All of this checkout.")] = False,
) -> None:
    """Take a cluster down and leave nothing of it."""
    for each in [home.name for home in known()] if everything else [name]:
        with _alone(each) as home:
            there = home.path.exists()
            providers.down(home)
            if there:
                say(f"{each} is down")


@app.command()
def status() -> None:
    """The clusters of this checkout."""
    with _errors():
        for home in known():
            facts = home.read()
            state = "ready" if providers.is_ready(home) else "not ready"
            where = facts.get("server", "")
            print(f"{home.name}\t{facts.get('provider', '?')}\t{state}\t{where}".rstrip())


@app.command()
def kubeconfig(name: Name = DEFAULT_NAME) -> None:
    """Print the path of a cluster's kubeconfig."""
    with _errors():
        print(_existing(name).kubeconfig)


@app.command(context_settings={"ignore_unknown_options": True})
def kubectl(arguments: list[str], name: Name = DEFAULT_NAME) -> None:
    """Run kubectl against a cluster: `kubectl -- get pods`."""
    with _errors():
        environment = os.environ | {"KUBECONFIG": str(_existing(name).kubeconfig)}
    os.execve(KUBECTL, ["kubectl", *arguments], environment)  # noqa: S606


@app.command()
def logs(
    component: Annotated[str, typer.Argument(help=f"init, {', '.join(COMPONENTS)}.")],
    name: Name = DEFAULT_NAME,
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
) -> None:
    """Print what a component of an embedded cluster has logged."""
    with _errors():
        file = Home(name).logs / f"{component}.log"
        if not file.exists():
            have = sorted(path.stem for path in Home(name).logs.glob("*.log"))
            raise ClusterError(f"no such log; there are: {', '.join(have) or 'none'}")
    sys.stdout.flush()
    os.execvp("tail", ["tail", "-n", "+1", *(["-F"] if follow else []), str(file)])  # noqa: S606


@app.command()
def install(name: Name = DEFAULT_NAME, tag: Tag = _TAG) -> None:
    """Install corral from manifests/ and wait until it runs; nothing happens where it does."""
    from cluster import install as installation

    with _alone(name) as home:
        installation.install(home, os.environ.get("CORRAL_IMAGE", tag))


@app.command("add-node")
def add_node(name: Name = DEFAULT_NAME) -> None:
    """Give an embedded cluster a second node; nothing happens where it has one."""
    from cluster import embedded, image

    with _alone(name) as home:
        _must_be_embedded(home)
        print(embedded.add_node(home, [image.build(_TAG)]))


@app.command("add-metrics")
def add_metrics(name: Name = DEFAULT_NAME) -> None:
    """Give an embedded cluster a metrics-server, for HPAs."""
    from cluster import install as installation

    with _alone(name) as home:
        _must_be_embedded(home)
        installation.install_metrics(home)


@app.command()
def observe(
    name: Name = DEFAULT_NAME,
    pace: Annotated[float, typer.Option(help="What the rules' durations are multiplied by.")] = 1.0,
) -> None:
    """Start Prometheus, Alertmanager and a trace store beside an embedded cluster."""
    from cluster.observe import observe as start

    with _alone(name) as home:
        _must_be_embedded(home)
        start(home, pace)


@app.command()
def run(name: Name = DEFAULT_NAME) -> None:
    """Run the operator from the source tree, in place of the one in the cluster."""
    from cluster import install as installation

    with _errors():
        installation.run_from_source(_existing(name))


@app.command()
def demo(name: Name = DEFAULT_NAME) -> None:
    """Let a team of agents write a report."""
    from cluster.demo import show

    with _errors():
        code = show(_existing(name))
    raise typer.Exit(code)


@images.command()
def build(tag: Tag = _TAG) -> None:
    """Build the project's image; nothing happens where nothing has changed."""
    from cluster import image

    with _errors():
        print(image.build(tag))


@images.command("load")
def load_image(name: Name = DEFAULT_NAME, tag: Tag = _TAG) -> None:
    """Give a cluster the image; nothing happens where it has it."""
    from cluster import image

    with _alone(name) as home:
        image.load(home, tag)


def _must_be_embedded(home: Home) -> None:
    if home.read().get("provider") != Provider.EMBEDDED:
        raise ClusterError(f"there is no embedded cluster {home.name!r} to add that to")


def _existing(name: str) -> Home:
    home = Home(name)
    if not home.kubeconfig.exists():
        raise ClusterError(f"there is no cluster {name!r}: python -m cluster up --name {name}")
    return home
