"""The files that the components of an embedded cluster are started with.

Paths are as seen inside of the cluster's mount namespace: `/run/corral` is its state folder and
`/run/node` the folder of its binary (see init.sh).
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster import pki
from cluster.claim import Numbers
from cluster.gobuild import PAUSE_IMAGE
from cluster.packages import cni_folder
from cluster.paths import Home

DOMAIN = "cluster.local"
PODS = "10.244.0.0/16"
SERVICES = "10.96.0.0/16"
_KUBERNETES = "10.96.0.1"  # the Service of the API server: the first of SERVICES
_ISSUER = f"https://kubernetes.default.svc.{DOMAIN}"

# The one PersistentVolume (manifests/overlays/embedded): there is no provisioner.
VOLUME = "lib/volumes/artifacts"

# What the operator's account asked the API server for, one JSON object a line.
AUDIT_LOG = "log/audit.log"

# Keeps from a second node what does not ask for it.
TAINT = "corral.dev/second"

_IN = "/run/corral"
_PKI = f"{_IN}/pki"

# All users of the API server but the people: file name, user, groups.
_USERS = (
    ("kube-controller-manager", "system:kube-controller-manager", ()),
    ("kube-scheduler", "system:kube-scheduler", ()),
    ("kube-proxy", "system:kube-proxy", ()),
    ("coredns", "system:coredns", ()),
)


@dataclass(frozen=True)
class Setup:
    """What the files of one cluster differ by."""

    home: Home
    numbers: Numbers

    @property
    def node(self) -> str:
        """The Node's name."""
        return f"{self.home.name}-node"

    @property
    def server(self) -> str:
        return f"https://{self.numbers.node}:6443"


@dataclass(frozen=True)
class Place:
    """What the nodes of a cluster, all in one network namespace, don't share."""

    suffix: str
    kubelet_port: int
    health_port: int


FIRST = Place("", 10250, 10248)
SECOND = Place("-2", 10350, 10348)


def socket(which: Place = FIRST) -> str:
    """Where a node's containerd listens, inside of the cluster."""
    return f"/run/containerd{which.suffix}/containerd.sock"


def write(setup: Setup) -> str:
    """Write everything into the state folder; return the kubeconfig for people."""
    state = setup.home.path
    for folder in ("pki", "etc", "etc/cni", "lib", VOLUME, "log", "log/node", "etcd"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    kubeconfig = _certificates(setup)
    etc = state / "etc"
    for name, words in _commands(setup).items():
        (etc / f"{name}.args").write_text("\n".join(words) + "\n")
    (etc / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(setup, FIRST)))
    (etc / "kube-proxy.yaml").write_text(yaml.safe_dump(_kube_proxy(setup)))
    (etc / "containerd.toml").write_text(_containerd(state, FIRST))
    (etc / "cni" / "10-pods.conflist").write_text(json.dumps(_CNI))
    (etc / "Corefile").write_text(_corefile())
    (etc / "resolv.conf").write_text(f"nameserver {setup.numbers.node}\n")
    (etc / "masquerade.nft").write_text(_MASQUERADE)
    (etc / "audit.yaml").write_text(yaml.safe_dump(_AUDIT))
    return kubeconfig


def write_second(setup: Setup) -> dict[str, list[str]]:
    """Write what a second node needs; each of its components' program and arguments."""
    state, name = setup.home.path, f"{setup.node}{SECOND.suffix}"
    ca = pki.read(state / "pki", "ca")
    user = f"system:node:{name}"
    kubeconfig = _kubeconfig(setup, ca, pki.client(ca, user, ["system:nodes"]), user)
    etc = state / "etc"
    (etc / f"kubelet{SECOND.suffix}.kubeconfig").write_text(kubeconfig)
    taint = {"key": TAINT, "effect": "NoSchedule"}
    kubelet = _kubelet(setup, SECOND) | {"registerWithTaints": [taint]}
    (etc / f"kubelet{SECOND.suffix}.yaml").write_text(yaml.safe_dump(kubelet))
    (etc / f"containerd{SECOND.suffix}.toml").write_text(_containerd(state, SECOND))
    return {
        "containerd": ["containerd", "--config", f"{_IN}/etc/containerd{SECOND.suffix}.toml"],
        "kubelet": _kubelet_words(setup, SECOND),
    }


def snapshotter(state: Path) -> str:
    """containerd's way to stack layers: overlayfs, but where it can't be put on itself."""
    device = state.stat().st_dev
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        major, minor = fields.split()[2].split(":")
        if os.makedev(int(major), int(minor)) == device:
            return "native" if rest.split()[0] == "overlay" else "overlayfs"
    return "overlayfs"


def _certificates(setup: Setup) -> str:
    folder, address = setup.home.path / "pki", setup.numbers.node
    ca, front = pki.authority("corral-ca"), pki.authority("corral-front-proxy-ca")
    ca.write(folder, "ca")
    front.write(folder, "front-proxy-ca")
    pki.client(front, "front-proxy-client").write(folder, "front-proxy-client")
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names += [f"kubernetes.default.svc.{DOMAIN}", "localhost", "127.0.0.1", _KUBERNETES, address]
    pki.server(ca, "kube-apiserver", names).write(folder, "apiserver")
    pki.server(ca, setup.node, [setup.node, address]).write(folder, "kubelet")
    # The API server's client certificate for the kubelet; without it, exec is "Unauthorized".
    masters = ["system:masters"]
    pki.client(ca, "kube-apiserver-kubelet-client", masters).write(folder, "apiserver-kubelet")
    pki.write_service_account_keys(folder)
    node_user = ("kubelet", f"system:node:{setup.node}", ("system:nodes",))
    for name, user, groups in (*_USERS, node_user):
        text = _kubeconfig(setup, ca, pki.client(ca, user, groups), user)
        (setup.home.path / "etc" / f"{name}.kubeconfig").write_text(text)
    admin = pki.client(ca, "kubernetes-admin", masters)
    admin.write(folder, "admin")
    return _kubeconfig(setup, ca, admin, "admin")


def _kubeconfig(setup: Setup, ca: pki.Pair, user: pki.Pair, name: str) -> str:
    def encode(data: bytes) -> str:
        return base64.b64encode(data).decode()

    context = f"corral-{setup.home.name}" if setup.home.name != "corral" else "corral"
    cluster = {"server": setup.server, "certificate-authority-data": encode(ca.certificate_pem)}
    credentials = {
        "client-certificate-data": encode(user.certificate_pem),
        "client-key-data": encode(user.key_pem),
    }
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": cluster}],
            "users": [{"name": name, "user": credentials}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": name}}],
            "current-context": context,
        },
        sort_keys=False,
    )


def _words(component: str, **flags: str) -> list[str]:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return ["/run/node/node", component, *words]


def _kubelet_words(setup: Setup, which: Place) -> list[str]:
    return _words(
        "kubelet",
        kubeconfig=f"{_IN}/etc/kubelet{which.suffix}.kubeconfig",
        config=f"{_IN}/etc/kubelet{which.suffix}.yaml",
        root_dir=f"/var/lib/kubelet{which.suffix}",
        hostname_override=f"{setup.node}{which.suffix}",
        node_ip=setup.numbers.node,
    )


def _commands(setup: Setup) -> dict[str, list[str]]:
    """Each component's program and arguments."""
    address = setup.numbers.node
    node = _words

    return {
        "etcd": node(
            "etcd",
            data_dir=f"{_IN}/etcd",
            listen_client_urls="http://127.0.0.1:2379",
            advertise_client_urls="http://127.0.0.1:2379",
            listen_peer_urls="http://127.0.0.1:2380",
            unsafe_no_fsync="true",  # it is thrown away, never recovered
            auto_compaction_retention="10m",
            log_level="warn",
        ),
        "kube-apiserver": node(
            "kube-apiserver",
            etcd_servers="http://127.0.0.1:2379",
            bind_address="0.0.0.0",  # noqa: S104 - in a network namespace of its own
            advertise_address=address,
            service_cluster_ip_range=SERVICES,
            authorization_mode="Node,RBAC",
            enable_admission_plugins="NodeRestriction",
            allow_privileged="true",
            audit_policy_file=f"{_IN}/etc/audit.yaml",
            audit_log_path=f"{_IN}/{AUDIT_LOG}",
            audit_log_mode="batch",  # nobody waits for the file
            audit_log_batch_max_wait="200ms",
            audit_log_maxsize="1000",
            audit_log_maxbackup="1",
            client_ca_file=f"{_PKI}/ca.crt",
            tls_cert_file=f"{_PKI}/apiserver.crt",
            tls_private_key_file=f"{_PKI}/apiserver.key",
            kubelet_certificate_authority=f"{_PKI}/ca.crt",
            kubelet_client_certificate=f"{_PKI}/apiserver-kubelet.crt",
            kubelet_client_key=f"{_PKI}/apiserver-kubelet.key",
            kubelet_preferred_address_types="InternalIP",
            service_account_issuer=_ISSUER,
            service_account_jwks_uri=f"{_ISSUER}/openid/v1/jwks",
            service_account_key_file=f"{_PKI}/sa.pub",
            service_account_signing_key_file=f"{_PKI}/sa.key",
            # For aggregated APIs such as metrics-server.
            requestheader_client_ca_file=f"{_PKI}/front-proxy-ca.crt",
            requestheader_allowed_names="front-proxy-client",
            requestheader_username_headers="X-Remote-User",
            requestheader_group_headers="X-Remote-Group",
            requestheader_extra_headers_prefix="X-Remote-Extra-",
            proxy_client_cert_file=f"{_PKI}/front-proxy-client.crt",
            proxy_client_key_file=f"{_PKI}/front-proxy-client.key",
        ),
        "kube-controller-manager": node(
            "kube-controller-manager",
            kubeconfig=f"{_IN}/etc/kube-controller-manager.kubeconfig",
            bind_address="127.0.0.1",
            leader_elect="false",
            root_ca_file=f"{_PKI}/ca.crt",
            service_account_private_key_file=f"{_PKI}/sa.key",
            cluster_signing_cert_file=f"{_PKI}/ca.crt",
            cluster_signing_key_file=f"{_PKI}/ca.key",
            use_service_account_credentials="true",
            pvclaimbinder_sync_period="1s",  # else a claim waits 15 s for its volume
            kube_api_qps="200",
            kube_api_burst="400",
        ),
        "kube-scheduler": node(
            "kube-scheduler",
            kubeconfig=f"{_IN}/etc/kube-scheduler.kubeconfig",
            bind_address="127.0.0.1",
            leader_elect="false",
            kube_api_qps="200",
            kube_api_burst="400",
        ),
        "kube-proxy": node("kube-proxy", config=f"{_IN}/etc/kube-proxy.yaml"),
        "kubelet": _kubelet_words(setup, FIRST),
        # CoreDNS comes from a library that reads flags with one dash as well.
        "coredns": node("coredns", conf=f"{_IN}/etc/Corefile"),
        "containerd": ["containerd", "--config", f"{_IN}/etc/containerd.toml"],
    }


def _kubelet(setup: Setup, which: Place) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": setup.numbers.node,
        "port": which.kubelet_port,
        "healthzPort": which.health_port,
        "podLogsDir": f"/var/log/pods{which.suffix}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{_PKI}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{_PKI}/kubelet.crt",
        "tlsPrivateKeyFile": f"{_PKI}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{socket(which)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{setup.numbers.device}{which.suffix}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDomain": DOMAIN,
        "clusterDNS": [setup.numbers.node],
        "resolvConf": f"{_IN}/etc/resolv.conf",  # the host's search domains stay outside
        "maxPods": 250,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "eventRecordQPS": 0,
        "registryPullQPS": 0,
        "serializeImagePulls": False,
        "makeIPTablesUtilChains": False,
        # Who kills things on purpose does not want to wait five minutes for the next start.
        "featureGates": {"KubeletCrashLoopBackOffMax": True},
        "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
        "syncFrequency": "10s",  # how soon a changed Secret shows in a mounted file
        # A developer's disk may be rather full: that is no reason to evict a pod here, nor to
        # delete an image that can't be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "1%",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
    }


def _kube_proxy(setup: Setup) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{_IN}/etc/kube-proxy.kubeconfig"},
        "hostnameOverride": setup.node,
        "mode": "nftables",
        "nftables": {"minSyncPeriod": "100ms"},  # a new pod is behind its Service that soon
        "clusterCIDR": PODS,
        # These limits have no namespaces: leave the host's alone.
        "conntrack": {
            "maxPerCore": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def _containerd(state: Path, which: Place) -> str:
    return f"""\
version = 2
root = "/var/lib/containerd{which.suffix}"
state = "/run/containerd{which.suffix}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", \
"io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "{socket(which)}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter(state)}"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_folder()}"
conf_dir = "{_IN}/etc/cni"
"""


# Not the bridge plugin: traffic between two pods of a bridge need not pass the node's rules, which
# Services depend on. With ptp each pod has a link of its own and everything is routed.
_CNI = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "ptp",
            "ipMasq": False,  # see masquerade.nft: one rule in place of many calls for each pod
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-addresses",
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}

_MASQUERADE = f"""\
table ip corral {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr {PODS} oifname "eth0" masquerade
  }}
}}
"""


# Which rights the operator uses is compared with those that it has (tests/cluster/test_rights.py).
_AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "Metadata",
            "users": ["system:serviceaccount:corral-system:corral-operator"],
            "omitManagedFields": True,
        },
        {"level": "None"},
    ],
}


def _corefile() -> str:
    """What is not in the cluster does not exist, and is said so at once."""
    return f"""\
.:53 {{
  errors
  kubernetes {DOMAIN} in-addr.arpa {{
    kubeconfig {_IN}/etc/coredns.kubeconfig
    ttl 5
  }}
  template ANY ANY . {{
    rcode NXDOMAIN
  }}
}}
"""
