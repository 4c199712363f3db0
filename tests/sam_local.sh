#!/usr/bin/env bash
# Runs the function under SAM local, as `sam build` made it: every file in events/ through
# `sam local invoke`, and curl through `sam local start-api`, against the local endpoint's S3.
# Wants sam, cargo-lambda and a Docker engine; where no engine answers, it skips.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! docker info >/dev/null 2>&1; then
  echo 'SAM local: skipped, for no Docker engine answers.'
  exit 0
fi

# The stand-ins for what only Lambda has. SAM hands the keys on to the function.
export AWS_DEFAULT_REGION=us-east-1 AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local-secret SAM_CLI_TELEMETRY=0
case $(uname -m) in
  x86_64) architecture=x86_64 ;;
  aarch64 | arm64) architecture=arm64 ;;
  *) echo "Lambda has no $(uname -m)" >&2; exit 1 ;;
esac
image=public.ecr.aws/lambda/provided:al2023-$architecture

work=$(mktemp -d)
started=()
# shellcheck disable=SC2329  # The trap calls it.
clean_up() {
  local status=$?
  if [ "$status" -ne 0 ] && [ -e "$work/log" ]; then tail -n 40 "$work/log" >&2; fi
  for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap clean_up EXIT

fail() {
  echo "SAM local: $*" >&2
  exit 1
}

# As root, or not at all: for what a machine may lack.
need() {
  command -v "$1" >/dev/null && return
  [ "$(id -u)" -eq 0 ] || fail "$1 is not installed"
  apt-get update -qq && apt-get install -qq --yes "$1" >/dev/null
}

# The runtime's base image; where its registry is out of reach, a small Debian of the same name stands
# in for it. The function brings all it needs but a C library, and SAM adds the runtime's emulator.
if ! docker image inspect "$image" >/dev/null 2>&1 && ! docker pull --quiet "$image" 2>/dev/null; then
  echo "SAM local: $image cannot be pulled; a Debian stands in for it."
  need debootstrap
  debootstrap --variant=minbase --include=ca-certificates bookworm "$work/root" >"$work/log"
  tar --directory "$work/root" --create . | docker import - "$image" >/dev/null
  rm -rf "$work/root"
fi

sam build --parameter-overrides "Architecture=$architecture" >"$work/log" 2>&1
cargo build --locked --quiet --example local

# The local endpoint, for its S3.
data=$work/data
exec 3< <(exec target/debug/examples/local --port 0 --s3-port 0 --data-dir "$data")
started+=($!)
s3_port=''
while [ -z "$s3_port" ] && read -r line <&3; do
  if [[ $line =~ ^'S3 is at http://127.0.0.1:'([0-9]+) ]]; then s3_port=${BASH_REMATCH[1]}; fi
done
[ -n "$s3_port" ] || fail 'the local endpoint did not start'
cat <&3 >/dev/null &
id=2025092811473036584258
draft=$data/drafts/drafts/$id/draft_content.json
saved=$data/drafts/saved

# It listens on 127.0.0.1 alone, which a container cannot reach on Linux: a relay at the address that
# containers have for the host can. Docker Desktop needs none.
host=$(docker run --rm --add-host host.docker.internal:host-gateway --entrypoint cat "$image" /etc/hosts |
  awk '$2 == "host.docker.internal" { print $1; exit }')
if ip -4 address show 2>/dev/null | grep -qF " $host/"; then
  need socat
  socat "TCP-LISTEN:$s3_port,bind=$host,fork,reuseaddr" "TCP:127.0.0.1:$s3_port" &
  started+=($!)
fi

sed "s/:9000/:$s3_port/" events/env.json >"$work/env.json"
options=(
  --skip-pull-image
  --parameter-overrides "Architecture=$architecture"
  --env-vars "$work/env.json"
  --add-host host.docker.internal:host-gateway
)

# Fails unless there are $1 versions, and each is the draft to the last byte.
versions() {
  local found=() version
  if [ -d "$saved" ]; then mapfile -t found < <(find "$saved" -name draft_content.json); fi
  [ "${#found[@]}" -eq "$1" ] || fail "$2: ${#found[@]} versions, not $1"
  for version in "${found[@]}"; do
    cmp -s "$version" "$draft" || fail "$2: $version is not the draft"
  done
}

for event in events/*.json; do
  case $event in
    events/env.json) continue ;;
    events/s3-test-event.json) expected=0 ;;
    *) expected=1 ;;
  esac
  rm -rf "${saved:?}"
  answer=$(sam local invoke "${options[@]}" --event "$event" 2>"$work/log")
  case $event in
    events/api-gateway-*.json | events/alb*.json | events/function-url.json) wanted='"statusCode": *200' ;;
    events/direct-*.json) wanted='"saved": *"created"' ;;
    events/sqs*.json) wanted='"batchItemFailures": *\[\]' ;;
    *) wanted='.' ;;
  esac
  if ! grep -Eq "$wanted" <<<"$answer" || grep -q '"errorType"' <<<"$answer"; then
    fail "$event: the answer was ${answer:-empty}"
  fi
  versions "$expected" "$event"
  echo "SAM local: invoke with $event: versions: $expected"
done

# start-api, on a port that is free now.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
rm -rf "${saved:?}" "$work/log"
exec 4< <(exec sam local start-api "${options[@]}" --host 127.0.0.1 --port "$port" 2>&1)
started+=($!)
while read -r line <&4; do
  printf '%s\n' "$line" >>"$work/log"
  [[ $line != *'Running on'* ]] || break
done
cat <&4 >>"$work/log" &
api=http://127.0.0.1:$port/capcut-mate/v1/save_draft

# Fails unless curl with the arguments $3… gets the status $1 and the body $2; headers are left in $work/head.
answers() {
  local status=$1 body=$2
  shift 2
  curl --silent --show-error --max-time 120 --dump-header "$work/head" --output "$work/body" "$@"
  head -n 1 "$work/head" | grep -q " $status " || fail "curl $*: $(cat "$work/head" "$work/body")"
  [ "$(cat "$work/body")" = "$body" ] || fail "curl $*: the body is $(cat "$work/body")"
  echo "SAM local: start-api: $status $body"
}

# Fails unless the last answer had the header $1 with the value $2.
header() {
  tr -d '\r' <"$work/head" | grep -Fixq "$1: $2" || fail "no header $1: $2 in: $(cat "$work/head")"
}

body='{"draft_url":"https://capcut-mate.jcaigc.cn/openapi/capcut-mate/v1/get_draft?draft_id='
answers 200 "$body$id\"}" "$api" --data "$body$id\"}"
header Draft-Saved created
header Cache-Control no-store
header Content-Type application/json
versions 1 start-api
answers 200 "$body$id\"}" "$api" --data "$body$id\"}"
header Draft-Saved unchanged
versions 1 start-api
answers 400 '{"detail":"draft_url is required"}' "$api" --data '{}'
answers 400 '{"detail":"Invalid draft_url format"}' "$api" --data '{"draft_url":"https://example.com/"}'
answers 404 '{"detail":"Draft does not exist"}' "$api" --data "${body}0\"}"
answers 405 '{"detail":"Method Not Allowed"}' "$api"
header Allow POST
echo 'SAM local: passed'
