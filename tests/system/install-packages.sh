#!/usr/bin/env bash
# Debian packages that tests need: those marked 'system', and those of network cameras, which run everywhere. Run it as
# root, as often as you like.
set -euo pipefail

packages=(
    iproute2            # network namespaces, and the shaped link
    iptables nftables   # links that lose or swallow packets
    mmdebstrap          # a board's root file system ...
    systemd-container   # ... booted with a real systemd
    openssh-client openssl socat
    # A network camera, and GStreamer to read it: with the system's Python, as on a board.
    python3-gi gir1.2-gst-rtsp-server-1.0 gir1.2-gst-plugins-base-1.0
    gstreamer1.0-plugins-base gstreamer1.0-plugins-good
    mosquitto           # the broker for answers over MQTT
    prometheus          # scrapes the server's metrics, and checks the alert rules
    chromium chromium-driver  # looks at the server's page
)
if [ "${1:-}" = --arm64 ]; then
    packages+=(arch-test qemu-user-static)  # 'make test-arm64': an arm64 root file system, and what runs in it
elif [ $# -gt 0 ]; then
    echo "usage: $0 [--arm64]" >&2
    exit 64
fi

missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "$0: run it as root: these packages are missing: ${missing[*]}" >&2
    exit 77
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
# Nothing is to start by itself on this machine because of a test.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 0755 "$policy"
fi
apt-get install --yes --quiet=2 --no-install-recommends "${missing[@]}"
