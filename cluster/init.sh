#!/bin/bash
# PID 1 of a cluster: the first process in its own network, mount and PID namespaces.
# Started by embedded.py in the state folder, which tells it on standard input what to do next,
# line by line. Should that process die before it says "stay", this one ends, and the kernel ends
# everything else in the namespaces: so there are no half-started clusters.
#
# $1: folder of the node's binary   $2: the node's address   $3: the host's address
set -eu
binaries=$1 node=$2 host=$3

# Mounts made here are seen by containers that ask for it, and by nobody outside.
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/corral /run/node /run/lock
mount --bind . /run/corral
mount --bind "$binaries" /run/node
cd /run/corral
# From here on, components find what is theirs at its usual path: it is the cluster's own.
mount --bind lib /var/lib
mount --bind log/node /var/log

# The kubelet sets these, which have no namespaces: show it that they are set, and keep the host's.
pin() {
  [ -e "/proc/sys/$1" ] || return 0
  echo "$2" >"/run/pin-${1//\//-}"
  mount --bind "/run/pin-${1//\//-}" "/proc/sys/$1"
}
pin vm/overcommit_memory 1
pin vm/panic_on_oom 0
pin kernel/panic 10
pin kernel/panic_on_oops 1
pin kernel/keys/root_maxkeys 1000000
pin kernel/keys/root_maxbytes 25000000

ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
ulimit -n 65536 2>/dev/null || true

network() {
  ip link set eth0 up
  ip address add "$node/24" dev eth0
  # No default route: what is outside is unreachable at once instead of after a time-out.
  # The node's own calls to Services need some route, before kube-proxy's rules turn them.
  ip route add 10.96.0.0/16 via "$host"
  nft -f etc/masquerade.nft
}

supervise() {
  mapfile -t words <"etc/$1.args"
  while true; do
    "${words[@]}" >>"log/$1.log" 2>&1 || true
    echo "--- $1 ended; it is started again" >>"log/$1.log"
    sleep 0.5
  done
}

echo namespaced
while read -r verb names; do
  case $verb in
    network) network ;;
    start) for name in $names; do supervise "$name" </dev/null >/dev/null & done ;;
    stay)
      exec </dev/null >/dev/null
      # As PID 1, bash also reaps what other processes leave behind.
      while true; do sleep 86400 & wait $! || true; done
      ;;
  esac
done
exit 1
