#!/usr/bin/env bash
# Makes what the machines of a Ray cluster know each other by: an authority, a certificate for each machine, one token.
#
#     deploy/ray/make-keys.sh FOLDER IP...
#
# FOLDER/IP/ is for the machine of that address: copy it there, to /etc/cloud-server/ray, readable for the server's user
# alone. FOLDER/authority.key makes further certificates: keep it off the machines. Run it again for more machines.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 FOLDER IP..." >&2
    exit 64
fi
command -v openssl >/dev/null || { echo "$0: openssl is missing; install it: apt-get install openssl" >&2; exit 69; }
umask 077
folder=$1
shift
mkdir -p "$folder"
cd "$folder"
days=3650

if [ ! -e authority.key ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days $days -subj "/CN=ray cluster" \
        -keyout authority.key -out authority.pem 2>/dev/null
fi
[ -e token ] || openssl rand -hex 32 >token
for ip in "$@"; do
    mkdir -p "$ip"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$ip" \
        -keyout "$ip/private.key" -out "$ip/request" 2>/dev/null
    openssl x509 -req -in "$ip/request" -CA authority.pem -CAkey authority.key -CAcreateserial -days $days \
        -extfile <(echo "subjectAltName=IP:$ip,IP:127.0.0.1,DNS:localhost") -out "$ip/certificate.pem" 2>/dev/null
    rm "$ip/request"
    cp authority.pem token "$ip/"
    echo "$folder/$ip"
done
