# shellcheck shell=bash
# shellcheck disable=SC2034  # The scripts use the variables.
# Sourced by scripts that need the local endpoint.

# start_local_endpoint LOG OPTION…: starts the local endpoint on free ports.
# Sets endpoint_url, endpoint_s3_port and endpoint_process. LOCAL names the program; without it, builds it.
start_local_endpoint() {
  local line
  if [ -z "${LOCAL:-}" ]; then
    cargo build --locked --quiet --package local
    LOCAL=${CARGO_TARGET_DIR:-target}/debug/local
  fi
  exec 3< <(exec "$LOCAL" --port 0 --s3-port 0 "${@:2}")
  endpoint_process=$!
  endpoint_url='' endpoint_s3_port=''
  while [ -z "$endpoint_url" ] || [ -z "$endpoint_s3_port" ]; do
    read -r line <&3 || {
      echo 'the local endpoint did not print its addresses' >&2
      return 1
    }
    if [[ $line =~ http://127\.0\.0\.1:[0-9]+/openapi/[a-z0-9/_-]+ ]]; then endpoint_url=${BASH_REMATCH[0]}; fi
    if [[ $line =~ ^'S3 is at http://127.0.0.1:'([0-9]+) ]]; then endpoint_s3_port=${BASH_REMATCH[1]}; fi
  done
  cat <&3 >"$1" &
}
