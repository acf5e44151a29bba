# The server's half of enrolling a board; POSIX sh, evaluated there as root: $1 'look', 'allow' or 'revoke', $2 the config file.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
step=$1
config=$2
shift 2
command -v cloud-server >/dev/null || { echo "error: there is no cloud-server; run deploy/deploy-server.sh first" >&2; exit 69; }

case $step in
look)
    keys=$(cloud-server keys show -c "$config" --json)
    shown=$(cloud-server config show -c "$config" --json)
    devices=$(cloud-server devices list -c "$config" --json) || true
    # An older cloud-server does not remember them.
    revoked=$(cloud-server devices list -c "$config" --revoked --json 2>/dev/null) || true
    printf '%s\n' "{\"keys\": $keys, \"config\": $shown, \"devices\": ${devices:-[]}, \"revoked\": ${revoked:-[]}}"
    ;;
allow) # NAME KEY [replace]
    [ "${3:-}" != replace ] || cloud-server devices revoke -c "$config" "$1"
    public=$(mktemp) # as a file, since a key may begin with a dash
    printf '%s\n' "$2" >"$public"
    ended=0
    cloud-server devices allow -c "$config" "$1" "$public" || ended=$?
    rm -f "$public"
    exit $ended
    ;;
revoke) # NAME, of a board whose program is taken away by the one who may put it back: nothing to remember
    cloud-server devices revoke -c "$config" --forget "$1" ;;
esac
