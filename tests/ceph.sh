#!/usr/bin/env bash
#
# Runs a command against a real distributed object store: Ceph's RADOS Gateway, on loopback.
#
#     tests/ceph.sh                   the store's tests (DEFAULT_COMMAND below)
#     tests/ceph.sh -- COMMAND...     COMMAND, whose exit status is this script's
#
# One monitor, one OSD that keeps its data in memory, and one gateway are started in a temporary
# folder, and are gone when the script ends, however it ends. Every port is a free one, so several
# copies may run at once. The programs are Debian's; root gets the packages installed when missing.
#
# COMMAND finds in its environment
#
#     S3_TEST_ENDPOINT            the gateway, http://127.0.0.1:<port>
#     S3_TEST_STORE=ceph          which store that is: the tests skip by name what it cannot do
#     AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
#     CEPH_OSD_PID                the OSD: `kill -STOP` stalls every request, `kill -CONT` lets them go on
#     CEPH_CONF                   the cluster's configuration, for `ceph -s` and the like
#
# The gateway waits for a stopped OSD as long as it takes (see `write_config`), then does what it was
# asked, also for a client that has given up by then. A stopped OSD does not keep the script from ending.
#
# CEPH_START_SECONDS (default 120) bounds the whole start.

set -euo pipefail

# What runs, in the project's folder, when no command is given.
readonly DEFAULT_COMMAND=(
  cargo test --test main -- --include-ignored --nocapture
  store:: racing_savers_against_another_store racing_savers_outlast_an_outage
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

  # In the foreground, with our own input: `tests/ceph.sh -- bash` is a shell beside the cluster.
  local status=0
  "${command[@]}" || status=$?
  survived || ((status)) || status=1
  return "$status"
}

# Installs what is missing; says what to do where that needs another user.
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

  # The OSD formats its store without asking the monitor, so both are prepared side by side.
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

  # `ceph` itself waits for the monitor. The place in the CRUSH map is given here, as the OSD would
  # ask for it, and for its device class, in a way that needs a manager.
  ask ceph osd new "$osd_uuid" 0
  ask ceph osd crush create-or-move osd.0 1.0 host=localhost root=default
  start osd ceph-osd -f -i 0
  step 'OSD placed and started'

  # Creates the gateway's pools on the way, and so returns only once the OSD stores objects.
  ask radosgw-admin user create --uid=local --display-name=local \
    --access-key="$ACCESS_KEY" --secret-key="$SECRET_KEY"
  step 'user created'

  # Without tcp_nodelay, a GET waits for the client's delayed acknowledgement.
  gateway_port=$(free_port)
  start gateway radosgw -f --name client.gateway \
    --rgw-frontends "beast endpoint=127.0.0.1:$gateway_port tcp_nodelay=1"
  export S3_TEST_ENDPOINT=http://127.0.0.1:$gateway_port
  export S3_TEST_STORE=ceph
  export AWS_ACCESS_KEY_ID=$ACCESS_KEY AWS_SECRET_ACCESS_KEY=$SECRET_KEY AWS_REGION=$REGION
  export CEPH_OSD_PID=${daemons[osd]}
  await gateway curl -sf --noproxy '*' -o "$work/log/ping.out" "$S3_TEST_ENDPOINT"
  step 'gateway answers'

  # The pools for data are made by the first write, which takes long enough to look like a fault.
  s3 PUT warm-up
  s3 PUT warm-up/object --data-binary warm
  s3 DELETE warm-up/object
  s3 DELETE warm-up
  step 'first object written'
}

# $1: the cluster's id; $2: the monitor's port.
write_config() {
  cat >"$work/ceph.conf" <<CONFIG
[global]
fsid = $1
mon_host = [v2:127.0.0.1:$2]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
# Nobody but this machine reaches the cluster: no keys among the daemons.
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
# Everything stays in the temporary folder.
run_dir = $work
admin_socket =
crash_dir = $work/log
log_file = $work/log/\$name.log
mon_cluster_log_file = $work/log/cluster.log
mon_data = $work/mon
osd_data = $work/osd
rgw_data = $work/gateway
# One copy of everything, few placement groups.
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
# Changes to the cluster's maps are not batched: that is most of the start.
paxos_propose_interval = 0.05

[mon]
# An OSD with no peers is called down only when it has not reported for this long, in seconds. Until
# then the gateway waits for it.
mon_osd_report_timeout = 86400

[osd]
osd_objectstore = memstore
# What it may grow to, in bytes of memory: a write to a full store is not refused, it waits.
memstore_device_bytes = 8589934592
# Both would wait for the manager, which there is none of.
osd_crush_update_on_start = false
osd_class_update_on_start = false
# Time passes for a stopped OSD too: it must not take its threads for hung ones, and end itself.
osd_op_thread_suicide_timeout = 0
# Its leases on its placement groups, four fifths of this in seconds, must outlast a stop as well. With
# no peer to renew an expired one with, requests wait for ever in "waiting for readable".
osd_heartbeat_grace = 86400

[client]
# The gateway's own default is an encrypted connection to the monitor, for which there are no keys.
ms_mon_client_mode = crc
rgw_enable_usage_log = false
rgw_dynamic_resharding = false
rgw_run_sync_thread = false
CONFIG
}

# Starts a daemon: $1 its name here, the rest its command line, in the foreground.
# The kernel ends it with this script, should the script itself be killed outright.
start() {
  setpriv --pdeathsig KILL "${@:2}" </dev/null &>"$work/log/$1.out" &
  daemons[$1]=$!
}

# Runs an administration command; it waits for the cluster by itself, we bound it.
ask() {
  local left=$((${CEPH_START_SECONDS:-120} - SECONDS))
  ((left > 0)) && timeout --foreground "$left" "$@" &>>"$work/log/admin.out" </dev/null && return
  fail "this failed, or did not end in time: $*"
}

# Polls until a command succeeds: $1 the daemon it depends on, the rest the command.
await() {
  until "${@:2}"; do
    kill -0 "${daemons[$1]}" 2>/dev/null || fail "the $1 ended during the start"
    ((SECONDS < ${CEPH_START_SECONDS:-120})) || fail "the $1 was not ready in time"
    sleep 0.05
  done
}

# One signed request: $1 the method, $2 the path, the rest more arguments for curl.
s3() {
  ask curl -sSf --noproxy '*' -X "$1" --aws-sigv4 "aws:amz:$REGION:s3" --user "$ACCESS_KEY:$SECRET_KEY" \
    -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "${@:3}" "$S3_TEST_ENDPOINT/$2"
}

# Prints a port on loopback that is free and, for the next minute, is given to nobody who asks for
# any port: a connection that was closed on this side keeps it busy, save for a server that names it.
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

# Whether every daemon still runs; names those that do not.
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

# Ends the daemons (none has anything to keep) and removes the folder; after a failure, the logs stay.
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
