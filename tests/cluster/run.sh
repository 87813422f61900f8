#!/usr/bin/env bash
# Runs the tests on the clusters NAME and NAME-apart: tests/cluster/run.sh NAME [pytest's options]
#
# What ends operators and API servers has the second cluster, and runs beside the rest. Of the rest, a
# test that fails beside others has one more try when it is alone; it is told of as flaky if it
# passes then. There is none for the second cluster: what goes wrong once there is a defect.
set -euo pipefail

name=$1
shift
status=0

run() { # CLUSTER CACHE [pytest's options]
  local cluster=$1 cache=$2
  shift 2
  KUBECONFIG=$PWD/.cluster/$cluster/kubeconfig exec .venv/bin/pytest -o cache_dir="$PWD/.cluster/cache-$cache" tests/cluster "$@"
}

failed() { # an exit code of pytest; 5 is that no test was selected
  test "$1" -eq 0 -o "$1" -eq 5 || status=$1
}

tries() { # CACHE [pytest's options]
  local cache=$1 code=0
  shift
  (run "$name" "$cache" "$@") || code=$?
  if test "$code" -eq 1; then
    cp ".cluster/cache-$cache/v/cache/lastfailed" ".cluster/flaky-$cache.json"
    echo "once more, alone: what failed"
    code=0
    (run "$name" "$cache" --last-failed --last-failed-no-failures=none "${options[@]}") || code=$?
    test "$code" -ne 0 || flaky+=(".cluster/flaky-$cache.json")
  fi
  failed "$code"
}

options=("$@")
flaky=()
(run "$name-apart" apart -m apart "${options[@]}") >.cluster/apart.log 2>&1 &
apart=$!
trap 'kill $apart 2>/dev/null || true' EXIT
tries beside --numprocesses=2 --dist=loadfile -m "not alone and not apart" "${options[@]}"
tries alone -m alone "${options[@]}"
echo "waiting for the tests on $name-apart"
code=0
wait $apart || code=$?
failed "$code"
cat .cluster/apart.log
for list in "${flaky[@]}"; do
  echo "FLAKY, passed when they were run again:"
  cat "$list"
done
exit "$status"
