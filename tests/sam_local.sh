#!/usr/bin/env bash
# Builds the function with `sam build`, and runs it in a container with Lambda's runtime interface emulator:
# `sam local invoke` with events, and `sam local start-api` with HTTP requests, on the S3 server of the local endpoint.
# tests/deployed checks the behaviour of the stack.
#
# Needs a Docker engine, the SAM CLI, cargo-lambda, python3, curl and socat,
# and without a container registry debootstrap.
# With CI=true, installs missing Debian packages, and fails if something is missing.
# Otherwise it is skipped, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "SAM local: $*" >&2
  exit 1
}

# Ends the script because something is missing.
skip() {
  [ "${CI:-}" != true ] || fail "$*"
  echo "SAM local: skipped: $*"
  exit 0
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Checks that a command exists; with CI=true, installs the Debian package of that name.
need() {
  if ! command -v "$1" >/dev/null && [ "${CI:-}" = true ]; then
    as_root apt-get update -qq && as_root apt-get install -qq --yes "$1" >/dev/null
  fi
  command -v "$1" >/dev/null || skip "$1 is not installed"
}

docker info >/dev/null 2>&1 || skip 'no Docker engine answers'
for command in sam cargo-lambda python3; do
  command -v "$command" >/dev/null || skip "$command is not installed"
done
need curl
need socat

# Credentials of the S3 server. SAM passes them to the function.
export AWS_DEFAULT_REGION=us-east-1 AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local-secret SAM_CLI_TELEMETRY=0
case $(uname -m) in
  x86_64) architecture=x86_64 ;;
  aarch64 | arm64) architecture=arm64 ;;
  *) skip "Lambda does not support $(uname -m)" ;;
esac

work=$(mktemp -d)
# The images of this run. SAM adds the runtime interface emulator to the base image, in the same repository.
repository=save-draft-sam-local-$$
image=$repository:base
started=()
# shellcheck disable=SC2329  # The trap calls it.
clean_up() {
  local status=$?
  if [ "$status" -ne 0 ] && [ -e "$work/log" ]; then tail -n 40 "$work/log" >&2; fi
  for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
  wait
  docker images --format "{{.Repository}}:{{.Tag}}" "$repository" | xargs -r docker image rm --force >/dev/null
  rm -rf "$work"
}
trap clean_up EXIT

# The function needs only a C library, so a minimal Debian can replace the base image of the runtime.
base=public.ecr.aws/lambda/provided:al2023-$architecture
if docker image inspect "$base" >/dev/null 2>&1 || docker pull --quiet "$base" 2>/dev/null; then
  docker tag "$base" "$image"
else
  echo "SAM local: $base cannot be pulled. Uses a minimal Debian."
  need debootstrap
  [ "$(id -u)" -eq 0 ] || skip 'debootstrap needs root'
  debootstrap --variant=minbase --include=ca-certificates bookworm "$work/root" >"$work/log"
  tar --directory "$work/root" --create . | docker import - "$image" >/dev/null
  rm -rf "$work/root"
fi

sam build --parameter-overrides "Architecture=$architecture" >"$work/log" 2>&1
# shellcheck source=.ci/local-endpoint.sh
. .ci/local-endpoint.sh
data=$work/data
start_local_endpoint /dev/null --data-dir "$data" --allow-host host.docker.internal
started+=("$endpoint_process")
s3_port=$endpoint_s3_port
id=2025092811473036584258
draft=$data/drafts/drafts/$id/draft_content.json
saved=$data/drafts/saved

# On Linux, containers cannot reach 127.0.0.1 of the host. A relay listens at the address that they have for the host.
host=$(docker run --rm --add-host host.docker.internal:host-gateway --entrypoint cat "$image" /etc/hosts |
  awk '$2 == "host.docker.internal" { print $1; exit }')
if ip -4 address show 2>/dev/null | grep -qF " $host/"; then
  socat "TCP-LISTEN:$s3_port,bind=$host,fork,reuseaddr" "TCP:127.0.0.1:$s3_port" &
  started+=($!)
fi

sed "s/:9000/:$s3_port/" events/env.json >"$work/env.json"
options=(
  --skip-pull-image
  --invoke-image "$image"
  --parameter-overrides "Architecture=$architecture"
  --env-vars "$work/env.json"
  --add-host host.docker.internal:host-gateway
)

# Fails unless there is one version with the bytes of the draft.
check_version() {
  local found=()
  if [ -d "$saved" ]; then mapfile -t found < <(find "$saved" -name draft_content.json); fi
  [ "${#found[@]}" -eq 1 ] || fail "$1: expected 1 version, found ${#found[@]}"
  cmp -s "${found[0]}" "$draft" || fail "$1: ${found[0]} differs from the draft"
}

# invoke EVENT PATTERN: fails unless the result of the event matches the pattern.
invoke() {
  rm -rf "${saved:?}"
  result=$(sam local invoke "${options[@]}" --event "$1" 2>"$work/log")
  grep -Eq "$2" <<<"$result" || fail "$1: the result is ${result:-empty}"
  check_version "$1"
  echo "SAM local: invoke with $1: passed"
}

invoke events/direct-url.json '"saved": *"created"'
invoke events/sqs.json '"batchItemFailures": *\[\]'
invoke events/function-url.json '"statusCode": *200'

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

# request STATUS HEADER CURL_ARGUMENT…: fails unless the response has the status and the header.
request() {
  local status=$1 header=$2
  shift 2
  curl --silent --show-error --max-time 120 --include --output "$work/response" \
    "http://127.0.0.1:$port/capcut-mate/v1/save_draft" "$@"
  head -n 1 "$work/response" | grep -q " $status " || fail "start-api: expected $status: $(cat "$work/response")"
  tr -d '\r' <"$work/response" | grep -Fixq "$header" || fail "start-api: no $header in: $(cat "$work/response")"
  echo "SAM local: start-api answers $status with $header"
}

body="{\"draft_url\":\"https://capcut-mate.jcaigc.cn/openapi/capcut-mate/v1/get_draft?draft_id=$id\"}"
request 200 'Draft-Saved: created' --data "$body"
check_version start-api
request 200 'Draft-Saved: unchanged' --data "$body"
request 405 'Allow: POST'
echo 'SAM local: passed'
