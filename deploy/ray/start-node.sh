#!/usr/bin/env bash
# Starts this machine's node of a Ray cluster for `[engine] kind = "ray"`, and runs it until it is stopped (Ctrl-C).
#
#     deploy/ray/start-node.sh head IP [KEYS]          the first machine; IP is its own address in the cluster's network
#     deploy/ray/start-node.sh join IP HEAD [KEYS]     every other machine; IP is its own, HEAD the first one's
#
# KEYS is the machine's folder from make-keys.sh, by default /etc/cloud-server/ray. PORT (6379) is the head's; nodes use
# PORT..PORT+99 beside it. CPUS is how many cores tails may use, by default all; STORE_MIB the shared memory. RAY is the
# command, by default the one beside cloud-server's Python.
set -euo pipefail

usage() {
    echo "usage: $0 head IP [KEYS] | $0 join IP HEAD [KEYS]" >&2
    exit 64
}
[ $# -ge 2 ] || usage
role=$1 ip=$2
shift 2
port=${PORT:-6379}
case $role in
head) where=(--head "--port=$port") ;;
join)
    [ $# -ge 1 ] || usage
    where=("--address=$1:$port")
    shift
    ;;
*) usage ;;
esac
keys=$(realpath "${1:-/etc/cloud-server/ray}")
for name in certificate.pem private.key authority.pem token; do
    if [ ! -r "$keys/$name" ]; then
        echo "$0: $keys/$name cannot be read; make it with $(dirname "$0")/make-keys.sh" >&2
        exit 66
    fi
done
ray=${RAY:-/opt/cloud-server/current/bin/ray}
[ -x "$ray" ] || ray=$(command -v ray) || { echo "$0: ray is missing: pip install 'split-runtime[litert,ray]'" >&2; exit 69; }

# Whoever reaches these ports runs code here: TLS on both sides, and the token.
export RAY_USE_TLS=1 RAY_TLS_SERVER_CERT=$keys/certificate.pem RAY_TLS_SERVER_KEY=$keys/private.key
export RAY_TLS_CA_CERT=$keys/authority.pem RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$keys/token
# No reports to Ray's makers, no server of metrics.
export RAY_USAGE_STATS_ENABLED=0 RAY_enable_metrics_collection=0
# A node that does not answer for about 3 s is given up, and not after 15 s.
export RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=1000 RAY_health_check_failure_threshold=3

options=(
    "--node-ip-address=$ip"
    "--object-store-memory=$((${STORE_MIB:-256} * 1048576))"
    --include-log-monitor=false
    --disable-usage-stats
    --block
)
# Each kind of port in a range of its own, for a firewall: PORT..PORT+99 is all of them.
if [ -z "${ANY_PORTS:-}" ]; then
    options+=(
        "--node-manager-port=$((port + 1))" "--object-manager-port=$((port + 2))"
        "--runtime-env-agent-port=$((port + 3))" "--dashboard-agent-grpc-port=$((port + 4))"
        "--dashboard-agent-listen-port=$((port + 5))"
        "--min-worker-port=$((port + 10))" "--max-worker-port=$((port + 99))"
    )
fi
[ "$role" = head ] && options+=(--include-dashboard=false)
[ -n "${CPUS:-}" ] && options+=("--num-cpus=$CPUS")
[ -n "${TEMP:-}" ] && options+=("--temp-dir=$TEMP")
exec "$ray" start "${where[@]}" "${options[@]}"
