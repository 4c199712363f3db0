#!/usr/bin/env bash
#
# Starts Ceph with its RADOS Gateway on loopback, and runs a command against it.
#
#     tests/ceph.sh                   runs the tests of the store and the races
#     tests/ceph.sh -- COMMAND...     runs COMMAND, and exits with its status
#
# The cluster has one monitor, one OSD with its data in memory, and one gateway, in a temporary folder.
# It is stopped when the script ends. All ports are free ones, so that several copies can run at the
# same time. Missing Debian packages are installed if the script is run by root.
#
# Environment of COMMAND:
#
#     S3_TEST_ENDPOINT            the gateway, http://127.0.0.1:<port>
#     S3_TEST_STORE=ceph          tests for features that Ceph does not support are skipped
#     AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
#     CEPH_OSD_PID                process id of the OSD: `kill -STOP` stalls all requests, `kill -CONT` continues them
#     CEPH_CONF                   configuration of the cluster, for commands like `ceph -s`
#
# The gateway waits for a stopped OSD without a time limit (see `write_config`), and executes a request
# also after its client has disconnected.
#
# CEPH_START_SECONDS (default 120): time limit of the start.

set -euo pipefail

# Runs in the root of the repository.
readonly DEFAULT_COMMAND=(
  cargo test --test main -- --include-ignored --nocapture
  store:: concurrent_saves_in_an_external_store saves_during_an_outage
)

readonly ACCESS_KEY=local
readonly SECRET_KEY=local-secret
readonly REGION=us-east-1

declare -A daemons=() # name -> process id
work=''
started=''

say() { printf 'ceph.sh: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

main() {
  local command=("${@:2}")
  if ((!$#)); then
    command=("${DEFAULT_COMMAND[@]}")
    cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
  elif [[ $1 != -- || $# -eq 1 ]]; then
    fail 'usage: tests/ceph.sh [-- COMMAND...]'
  fi

  install_packages
  work=$(mktemp -d "${TMPDIR:-/tmp}/ceph.XXXXXX")
  trap tear_down EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP

  SECONDS=0
  started=$(now_ms)
  bring_up
  say "up after $(elapsed): $S3_TEST_ENDPOINT, OSD is process $CEPH_OSD_PID"

  # In the foreground, so that `tests/ceph.sh -- bash` is interactive.
  local status=0
  "${command[@]}" || status=$?
  survived || ((status)) || status=1
  return "$status"
}

# Installs missing packages, or prints the command for another user.
install_packages() {
  local program missing=()
  for program in ceph monmaptool ceph-mon ceph-osd radosgw radosgw-admin curl setpriv; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  ((${#missing[@]})) || return 0

  local packages=(ceph-common ceph-mon ceph-osd radosgw curl util-linux)
  command -v apt-get >/dev/null ||
    fail "missing: ${missing[*]}. Install Ceph's monitor, OSD and gateway (Debian: ${packages[*]})."
  ((EUID == 0)) ||
    fail "missing: ${missing[*]}. As root: apt-get install --no-install-recommends ${packages[*]}"
  say "installing ${packages[*]}"
  local log
  log=$(mktemp)
  if ! {
    apt-get -q update &&
      DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${packages[@]}"
  } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    fail "apt-get failed, see $log"
  fi
  rm -f "$log"
}

bring_up() {
  local mon_port gateway_port fsid
  mon_port=$(free_port)
  fsid=$(</proc/sys/kernel/random/uuid)
  mkdir "$work"/{log,mon,osd}
  write_config "$fsid" "$mon_port"
  export CEPH_CONF=$work/ceph.conf
  ceph-mon --version >&2

  # The OSD and the monitor are set up at the same time, because they do not need each other for it.
  local osd_uuid osd_format
  osd_uuid=$(</proc/sys/kernel/random/uuid)
  ceph-osd --no-mon-config --mkfs -i 0 --osd-uuid "$osd_uuid" &>"$work/log/osd-mkfs.out" &
  osd_format=$!
  (
    monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$mon_port]" "$work/monmap" &&
      ceph-mon --mkfs -i a --fsid "$fsid" --monmap "$work/monmap"
  ) &>"$work/log/mon-mkfs.out" || fail 'the monitor could not be set up'
  start mon ceph-mon -f -i a
  wait "$osd_format" || fail 'the OSD could not be set up'
  step 'monitor started'

  # `ceph` waits for the monitor. The OSD would need a manager to set its own place in the CRUSH map.
  ask ceph osd new "$osd_uuid" 0
  ask ceph osd crush create-or-move osd.0 1.0 host=localhost root=default
  start osd ceph-osd -f -i 0
  step 'OSD placed and started'

  # Creates the gateway's pools, and returns after the OSD has stored objects.
  ask radosgw-admin user create --uid=local --display-name=local \
    --access-key="$ACCESS_KEY" --secret-key="$SECRET_KEY"
  step 'user created'

  # Without tcp_nodelay, a response waits for the client's delayed acknowledgement.
  gateway_port=$(free_port)
  start gateway radosgw -f --name client.gateway \
    --rgw-frontends "beast endpoint=127.0.0.1:$gateway_port tcp_nodelay=1"
  export S3_TEST_ENDPOINT=http://127.0.0.1:$gateway_port
  export S3_TEST_STORE=ceph
  export AWS_ACCESS_KEY_ID=$ACCESS_KEY AWS_SECRET_ACCESS_KEY=$SECRET_KEY AWS_REGION=$REGION
  export CEPH_OSD_PID=${daemons[osd]}
  await gateway curl -sf --noproxy '*' -o "$work/log/ping.out" "$S3_TEST_ENDPOINT"
  step 'gateway answers'

  # The first write creates the pools for data, which takes seconds.
  s3 PUT warm-up
  s3 PUT warm-up/object --data-binary warm
  s3 DELETE warm-up/object
  s3 DELETE warm-up
  step 'first object written'
}

# $1: id of the cluster; $2: port of the monitor.
write_config() {
  cat >"$work/ceph.conf" <<CONFIG
[global]
fsid = $1
mon_host = [v2:127.0.0.1:$2]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
# The cluster listens on loopback only: the daemons need no keys.
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
# All files are in the temporary folder.
run_dir = $work
admin_socket =
crash_dir = $work/log
log_file = $work/log/\$name.log
mon_cluster_log_file = $work/log/cluster.log
mon_data = $work/mon
osd_data = $work/osd
rgw_data = $work/gateway
# One replica, few placement groups.
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
# Changes to the cluster's maps are not batched, which would take most of the start.
paxos_propose_interval = 0.05

[mon]
# Seconds without a report after which an OSD without peers is down. Until then the gateway waits.
mon_osd_report_timeout = 86400

[osd]
osd_objectstore = memstore
# Maximum size in bytes. A write to a full store waits.
memstore_device_bytes = 8589934592
# Both need a manager.
osd_crush_update_on_start = false
osd_class_update_on_start = false
# A stopped OSD must not end itself when it continues.
osd_op_thread_suicide_timeout = 0
# The leases of placement groups last four fifths of this, in seconds. After one has expired, an OSD
# without peers cannot renew it, and requests wait in "waiting for readable".
osd_heartbeat_grace = 86400

[client]
# The default of the gateway is an encrypted connection, which needs keys.
ms_mon_client_mode = crc
rgw_enable_usage_log = false
rgw_dynamic_resharding = false
rgw_run_sync_thread = false
CONFIG
}

# Starts a daemon. $1: its name; the rest: its command. The kernel kills it if this script is killed.
start() {
  setpriv --pdeathsig KILL "${@:2}" </dev/null &>"$work/log/$1.out" &
  daemons[$1]=$!
}

# Runs an administration command with a time limit. The command waits for the cluster.
ask() {
  local left=$((${CEPH_START_SECONDS:-120} - SECONDS))
  ((left > 0)) && timeout --foreground "$left" "$@" &>>"$work/log/admin.out" </dev/null && return
  fail "this failed, or did not end in time: $*"
}

# Repeats a command until it succeeds. $1: the daemon it needs; the rest: the command.
await() {
  until "${@:2}"; do
    kill -0 "${daemons[$1]}" 2>/dev/null || fail "the $1 ended during the start"
    ((SECONDS < ${CEPH_START_SECONDS:-120})) || fail "the $1 was not ready in time"
    sleep 0.05
  done
}

# Sends a signed request. $1: the method; $2: the path; the rest: arguments of curl.
s3() {
  ask curl -sSf --noproxy '*' -X "$1" --aws-sigv4 "aws:amz:$REGION:s3" --user "$ACCESS_KEY:$SECRET_KEY" \
    -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "${@:3}" "$S3_TEST_ENDPOINT/$2"
}

# Prints a free port. A closed connection in TIME_WAIT reserves it for a minute: only a server that
# names the port gets it.
free_port() {
  /usr/bin/python3 - <<'PYTHON'
import socket

with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        server.accept()[0].close()
print(port)
PYTHON
}

# Fails if a daemon has ended, and prints its name.
survived() {
  local name result=0
  for name in "${!daemons[@]}"; do
    kill -0 "${daemons[$name]}" 2>/dev/null || {
      say "the $name ended before its time"
      result=1
    }
  done
  return "$result"
}

# Kills the daemons and removes the folder; after a failure, the logs are kept.
tear_down() {
  local status=$?
  trap '' INT TERM HUP
  if ((${#daemons[@]})); then
    kill -KILL "${daemons[@]}" 2>/dev/null || true
    wait "${daemons[@]}" 2>/dev/null || true
  fi
  if ((status)) && [[ -d $work/log ]]; then
    rm -rf "$work"/{mon,osd,gateway}
    say "ended with status $status; the logs are in $work/log"
  else
    rm -rf "$work"
  fi
  exit "$status"
}

now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
elapsed() {
  local ms=$(($(now_ms) - started))
  printf '%d.%03d s' $((ms / 1000)) $((ms % 1000))
}
step() { say "$(elapsed) $*"; }

main "$@"
