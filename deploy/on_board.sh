# One step of a deployment, on the machine that is deployed to; POSIX sh. The workstation sends this text with every
# step, and a shell there evaluates it: $text is this text, $1 the program, $2 the step. Nothing of it stays there.
#
# Everything lies in /opt/PROGRAM:
#   store/SHA256          files that came over, by their hash; complete ones only
#   environments/NAME/    a Python environment each, shared by releases that need the same wheels
#   releases/NAME/        manifest, bundle(s), system files and the link 'venv'; complete as soon as it has its name
#   current               the release in use: a link, and the only thing that decides
#   placed, offered       what we wrote outside /opt/PROGRAM: 'SHA256 PATH', to tell our text from the user's edits
#   before/, journal      how things were before the switch that is under way, and what each step did
# A step that is cut short at any place leaves the service as it was, and can be done again. While a switch is under way
# there is a unit PROGRAM-undo.service as well: after a power cut it goes back before the service starts.
set -eu
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
program=$1
step=$2
shift 2
home=/opt/$program
unit=$program.service
config=/etc/$program/config.toml
undo=/etc/systemd/system/$program-undo.service
case $program in
cloud-server) key=/etc/$program/server.key ;;
*) key=/etc/$program/device.key ;;
esac
#: How long a new release has to answer (at the first start with a bundle the board is measured, which takes minutes on a
#: slow one), how long its status may lag behind that, and how long it must then stay up, in seconds.
ready_within_s=900
status_within_s=15
steady_for_s=3

#: Sockets that a new release is not to reach before it runs: systemd and its journal listen there to everybody.
system_sockets='-/run/dbus -/run/systemd/journal -/run/systemd/private -/run/systemd/notify -/run/systemd/io.system.ManagedOOM'

note() { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >>"$home/journal"; }
say() { printf '%s\n' "$*" >&2; }
fail() {
    say "error: $*"
    exit 70
}
sha256() { sha256sum <"$1" | cut -d' ' -f1; }
recorded() { [ ! -f "$home/$1" ] || awk -v path="$2" '$2 == path { print $1 }' "$home/$1"; }
record() { # FILE PATH SHA256; an empty hash forgets
    {
        [ ! -f "$home/$1" ] || awk -v path="$2" '$2 != path' "$home/$1"
        [ -z "$3" ] || printf '%s %s\n' "$3" "$2"
    } >"$home/$1.new"
    mv "$home/$1.new" "$home/$1"
}
listed() { awk -v kind="$2" '$1 == kind { print $2, $3 }' "$home/releases/$1/manifest"; }
current() { [ ! -L "$home/current" ] || basename "$(readlink "$home/current")"; }
# Between two steps of this deployment another one may have removed a release that it did not need.
came_between() { fail "another deployment came between; run the same command again"; }
installed() { [ -d "$home/releases/$1" ] || came_between; }

# --- facts: about this machine and what is installed on it. Needs no root and changes nothing. -----------------------

step_facts() {
    echo "machine $(uname -m)"
    echo "hostname $(cat /proc/sys/kernel/hostname)"
    echo "glibc $(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)"
    echo "clock_s $(date +%s)"
    echo "init $(cat /proc/1/comm)"
    if [ "$(id -u)" -eq 0 ] || sudo -n sh -c : 2>/dev/null; then echo "root yes"; fi
    place=$home
    while [ ! -d "$place" ]; do place=$(dirname "$place"); done
    echo "disk_kib $(df -Pk "$place" | awk 'NR == 2 { print $4 }')"
    for python in python3.14 python3.13 python3.12 python3.11 python3.10 python3; do
        path=$(command -v $python) || continue
        "$path" - "$path" <<'PYTHON' || true
import importlib.util, os, struct, sys
has = all(importlib.util.find_spec(name) for name in ("venv", "zipfile", "hashlib", "ctypes", "ssl"))
version = "%d.%d" % sys.version_info[:2]
print("python", os.path.realpath(sys.argv[1]), version, struct.calcsize("P") * 8, "venv" if has else "-")
PYTHON
    done
    echo "release $(current)"
    { [ ! -f "$home/before/complete" ] && [ ! -f "$home/undone" ] && [ ! -f "$undo" ]; } || echo "unfinished yes"
    echo "active $(systemctl is-active "$unit" 2>/dev/null || true)"
    [ ! -d "$home/store" ] || find "$home/store" -type f -printf 'stored %f\n'
    [ ! -d "$home/environments" ] || find "$home/environments" -mindepth 2 -maxdepth 2 -name complete -printf 'environment %h\n' |
        sed 's|environment .*/|environment |'
    [ ! -f "$home/offered" ] || sed 's/^/offered /' "$home/offered"
    [ ! -f "$config" ] || echo "configured yes"
    [ ! -f "$home/current/manifest" ] || sed 's/^/manifest /' "$home/current/manifest"
    # Beside the secret key, where 'keys switch' keeps them current.
    for stage in "" .old .next; do
        public=${key%.key}$stage.pub
        [ ! -r "$public" ] || echo "public_key$stage $(cat "$public")"
    done
}

# --- packages NAME...: packages of this system that are there to be had and not installed. ----------------------------

step_packages() {
    command -v apt-get >/dev/null || {
        echo "packages this system has no apt-get; install what docs/sources.md names for its cameras"
        return
    }
    if ! apt-cache show --quiet=0 python3-gi >/dev/null 2>&1; then
        timeout 300 apt-get update -qq >/dev/null 2>&1 || true # a fresh system knows of no packages yet
    fi
    missing=$(missing_packages "$@")
    if [ -z "$missing" ]; then
        if dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; then
            echo "packages all there"
        else
            echo "packages not installed: no archive that this system can reach has $1"
            echo "packages OpenCV works without them; for pipelines and a Pi's camera run this again with the internet there"
        fi
        return 0
    fi
    log=$(mktemp)
    if install_packages || { timeout 300 apt-get update -qq >"$log" 2>&1 && missing=$(missing_packages "$@") && install_packages; }; then
        echo "packages installed: $missing"
    else
        echo "packages not installed ($missing): $(tail -n 1 "$log" | cut -c1-300 | tr -cd '\40-\176')"
        echo "packages OpenCV works without them; for pipelines and a Pi's camera run this again with the internet there"
    fi
    rm -f "$log"
}

# Those that are known here, or all where none is; one that no archive has, as picamera2 outside Raspberry Pi OS, is left out.
missing_packages() {
    found=
    for package in "$@"; do
        dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed && continue
        apt-cache show --quiet=0 "$package" >/dev/null 2>&1 && found="$found $package"
    done
    echo "${found# }"
}

install_packages() {
    [ -n "$missing" ] || return 1
    # shellcheck disable=SC2086  # a list
    DEBIAN_FRONTEND=noninteractive timeout 900 apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=120 $missing >"$log" 2>&1
}

# --- receive: files come as a tar on standard input, each named by its hash. ----------------------------------------

step_receive() {
    mkdir -p "$home/store" "$home/incoming"
    arrived || true
    exec 3<&0 # a shell gives a background command an empty standard input
    tar --extract --no-same-owner --directory "$home/incoming" <&3 &
    echo "$! $(cat /proc/sys/kernel/random/boot_id)" >"$home/receiving"
    ended=0
    wait $! || ended=$?
    rm -f "$home/receiving"
    arrived && [ "$ended" -eq 0 ] || fail "not everything arrived; run the same command again: what has arrived is kept"
}

# Take what has arrived whole; false if something has not.
arrived() {
    whole=0
    for file in "$home/incoming"/*; do
        [ -f "$file" ] || continue
        if [ "$(sha256 "$file")" = "$(basename "$file")" ]; then
            sync "$file"
            mv "$file" "$home/store/"
        else
            rm -f "$file"
            whole=1
        fi
    done
    return $whole
}

# --- install RELEASE: unpack it beside the one in use; the manifest comes on standard input. ------------------------

step_install() {
    release=$1
    partial=$home/releases/$release.partial
    rm -rf "$partial"
    mkdir -p "$partial" "$home/environments"
    cat >"$partial/manifest"
    [ "$(sha256 "$partial/manifest" | cut -c1-16)" = "$release" ] || fail "the manifest did not arrive whole; run it again"
    if [ -d "$home/releases/$release" ]; then
        rm -rf "$partial"
        return
    fi
    name=$(awk '$1 == "environment" { print $2 }' "$partial/manifest")
    [ -f "$home/environments/$name/complete" ] || make_environment "$name" "$partial/manifest"
    ln -s "../../environments/$name" "$partial/venv"
    ln -s venv/bin "$partial/bin"
    link_client "$partial" "$home/environments/$name"
    while read -r kind hash path; do
        case $kind in
        bundle) path=$partial/$path ;;
        system) path=$partial/system/$path ;;
        *) continue ;;
        esac
        [ -f "$home/store/$hash" ] || came_between
        mkdir -p "$(dirname "$path")"
        ln "$home/store/$hash" "$path"
        chmod a-w "$path" # the program maps models that nobody may write to where they lie, and copies others
    done <"$partial/manifest"
    sync -f "$partial"
    mv "$partial" "$home/releases/$release"
    note "installed $release"
}

# For programs of this machine's own Python: our packages alone, without those that they stand on.
link_client() { # RELEASE ENVIRONMENT
    mkdir "$1/client"
    for package in edge_runtime split_model; do
        for path in "$2"/lib/python3*/site-packages/$package; do
            ln -s "../venv/${path#"$2"/}" "$1/client/$package"
        done
    done
}

make_environment() {
    environment=$home/environments/$1
    wheels=$home/incoming/wheels
    python=$(awk '$1 == "python" { print $3 }' "$2")
    rm -rf "$environment" "$wheels"
    mkdir -p "$wheels"
    awk '$1 == "wheel" { print $2, $3 }' "$2" | while read -r hash name; do
        [ -f "$home/store/$hash" ] || came_between
        ln "$home/store/$hash" "$wheels/$name"
    done
    "$python" -m venv --without-pip "$environment"
    # pip runs out of its own wheel, so the board's may be old or missing, and the environment needs none.
    pip=$(ls "$wheels"/pip-*.whl)
    find "$wheels" -name '*.whl' ! -path "$pip" -print0 |
        xargs -0 "$environment/bin/python" "$pip/pip" --isolated install --quiet --no-index --no-deps --no-cache-dir \
            --disable-pip-version-check --root-user-action=ignore >&2
    sync -f "$environment"
    touch "$environment/complete"
    rm -rf "$wheels"
    note "environment $1"
}

# --- keys: made here; only the public one is printed. ----------------------------------------------------------------

step_keys() { # RELEASE
    release=$1
    installed "$release"
    mkdir -p "$(dirname "$key")"
    if [ ! -f "$key" ]; then
        # The private key never leaves this machine; it is written with mode 0600 under another name first.
        rm -rf "$home/keys.new"
        mkdir -m 0700 "$home/keys.new"
        "$home/releases/$release/venv/bin/python" -c \
            'import sys, pathlib; from split_model.protocol.keys import make_pair; make_pair(pathlib.Path(sys.argv[1]), "new")' \
            "$home/keys.new"
        sync "$home/keys.new/new.key"
        mv "$home/keys.new/new.pub" "${key%.key}.pub"
        mv "$home/keys.new/new.key" "$key"
        rmdir "$home/keys.new"
        note "keys $key"
    fi
    "$home/releases/$release/venv/bin/python" -c \
        'import sys, pathlib; from split_model.protocol.keys import read_pair; print(read_pair(pathlib.Path(sys.argv[1])).public.decode())' \
        "$key"
}

# --- confined: in the sandbox of a release's own unit, never as root. -------------------------------------------------

cell=$program-trial.service

# The [Service] lines of unit files that bound a process; not those that say what runs, when, and with which secrets.
bounds() {
    awk '
        FNR == 1 { section = held = "" }
        { line = held $0; held = "" }
        line ~ /\\$/ { held = substr(line, 1, length(line) - 1) " "; next }
        line ~ /^[ \t]*\[/ { section = line; next }
        section !~ /^[ \t]*\[Service\]/ || line !~ /^[ \t]*[A-Za-z]+[ \t]*=/ { next }
        {
            name = line
            gsub(/^[ \t]+|[ \t]*=.*$/, "", name)
            if (name ~ /^(Exec|Restart|Timeout|Watchdog|Standard|TTY|FileDescriptor|USBFunction)/) next
            if (name ~ /^(Load|Set|Import)Credential|^(Runtime|State|Cache|Logs|Configuration|Working)Directory/) next
            if (name ~ /^(Type|NotifyAccess|RemainAfterExit|GuessMainPID|PIDFile|BusName|Sockets|OpenFile)$/) next
            if (name ~ /^(EnvironmentFile|PassEnvironment|KillMode|KillSignal|RuntimeMaxSec|SuccessExitStatus)$/) next
            print line
        }' "$@"
}

# confined RELEASE: run a unit with the [Service] lines of standard input, under the limits of that release's service
# and a few more. As it is a unit file, systemd reads our unit and the edits of 'systemctl edit' as for the service, and
# ignores properties that it does not know, as there. Sets $ended: the exit code; $result: systemd's word for the end.
confined() {
    systemctl stop "$cell" 2>/dev/null || true # of a step that was killed
    edits=$(systemctl show --value --property=DropInPaths "$unit" 2>/dev/null || true)
    {
        printf '[Unit]\nDescription=Trial of a release of %s\n\n[Service]\n' "$program"
        # shellcheck disable=SC2086  # a list
        bounds "$home/releases/$1/system/etc/systemd/system/$unit" $edits
        cat <<UNIT
Type=oneshot
PrivateNetwork=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ReadOnlyPaths=/run
LimitFSIZE=64M
OOMScoreAdjust=1000
WorkingDirectory=/
StandardInput=null
StandardOutput=file:$home/trial/said
StandardError=inherit
TimeoutStartSec=$ready_within_s
TimeoutStopSec=5
UNIT
        cat
    } >"$home/trial/unit"
    mkdir -p /run/systemd/system
    cp "$home/trial/unit" "/run/systemd/system/$cell"
    systemctl daemon-reload
    case $(systemctl show --value --property=User "$cell") in
    "" | root | 0) echo "check    as root, like the service: its unit or an edit of it there says so" ;;
    esac
    ended=0
    systemctl start "$cell" 2>>"$home/trial/asked" || ended=$?
    result=$(systemctl show --value --property=Result "$cell")
    if [ "$ended" -ne 0 ]; then
        ended=$(systemctl show --value --property=ExecMainStatus "$cell")
        [ "${ended:-0}" -ne 0 ] || ended=1 # it never ran, or its time was over
    fi
    rm -f "/run/systemd/system/$cell"
    systemctl daemon-reload
    systemctl reset-failed "$cell" 2>/dev/null || true
}

# What it said at last, in one line that steers no terminal.
complaint() {
    { grep -a error "$home/trial/said" || cat "$home/trial/said"; } 2>/dev/null |
        tail -n 1 | cut -c1-500 | tr -cd '\40-\176'
}

# The sandbox itself is not to be had: systemd says so by an exit code of 200 and more, our own check by 71.
unconfined() {
    [ "$result" = exit-code ] && { [ "$ended" -eq 71 ] || [ "$ended" -ge 200 ]; } ||
        { [ "$result" != exit-code ] && [ ! -e "$home/trial/said" ]; }
}

# --- trial RELEASE: can this machine run it? The service is not touched. --------------------------------------------
# What the bundle brings runs here for the first time: as a user that is there for the trial alone and so can neither
# reach the running service nor read its keys and state, without a network, with nothing to write to but its own /tmp, and
# without the sockets that systemd and its journal listen to for everybody.

step_trial() {
    release=$1
    installed "$release"
    rm -rf "$home/trial"
    mkdir -p "$home/trial"
    {
        confinement_check
        "trial_$(echo "$program" | tr - _)" "$home/releases/$release"
    } >"$home/trial/run"
    confined "$release" <<UNIT
User=$program-trial
Group=
SupplementaryGroups=
DynamicUser=yes
PrivateTmp=yes
PrivateDevices=yes
DeviceAllow=
ProtectSystem=strict
ProtectHome=yes
ReadWritePaths=
BindPaths=
InaccessiblePaths=-/dev/shm -/dev/mqueue $system_sockets
ExecStart=/bin/sh $home/trial/run $(readlink /proc/self/ns/net)
UNIT
    if [ "$ended" -eq 0 ]; then
        note "trial $release good"
        rm -rf "$home/trial"
        return
    fi
    note "trial $release failed: $result $ended"
    code=65
    if unconfined; then
        code=71
        say "the trial could not be confined, and does not run without: $(complaint) ($result $ended); see 'journalctl -u $cell' there"
    else
        case $result in
        timeout) say "error: the trial did not come to its end within its time" ;;
        signal | core-dump) say "error: the trial crashed (signal $ended)" ;;
        oom-kill) say "error: there is not enough memory for the trial" ;;
        *)
            said=$(complaint)
            say "${said:-error: the trial ended with $ended and gave no reason}"
            ;;
        esac
    fi
    rm -rf "$home/trial"
    discard "$release"
    exit "$code"
}

# Before anything of the release runs: are its limits in force? An old systemd, or one in a container, may lack some.
confinement_check() {
    cat <<'CHECK'
set -eu
refuse() { echo "error: $1" && exit 71; }
[ "$(id -u)" -ne 0 ] || refuse "it would run as root"
grep -q '^NoNewPrivs:[[:space:]]*1$' /proc/self/status || refuse "it could gain privileges"
! grep '^Cap...:' /proc/self/status | grep -qv '[[:space:]]0*$' || refuse "it would have capabilities"
[ "$(readlink /proc/self/ns/net)" != "$1" ] || refuse "it would have the network"
[ ! -w / ] && [ ! -w /run/lock ] && [ -w /tmp ] || refuse "it could write outside of its folder, or not in it"
cd /tmp
CHECK
}

# The script that runs there. Every head of the bundle is loaded and run, and nothing is sent; the ledger of the running
# service is not opened.
trial_edge_runtime() {
    cat <<SCRIPT
release=$1
make_keys='import sys, pathlib; from split_model.protocol.keys import make_pair; make_pair(pathlib.Path(sys.argv[1]), "trial")'
"\$release/venv/bin/python" -c "\$make_keys" .
cat >config.toml <<TOML
device = { bundle = "\$release/bundle", key = "trial.key", state = "state" }
server = { address = "tcp://127.0.0.1:9", public_keys = ["\$(cat trial.pub)"] }
source = { path = "\$release/bundle" }
planner = { earliest_cut = 0 }
release = { mechanism = "none" }
privacy = { whole_input_budget = "unlimited" }
TOML
exec "\$release/venv/bin/edge-runtime" bench -c config.toml --no-link --runs 1
SCRIPT
}

trial_cloud_server() {
    cat <<SCRIPT
release=$1
make_keys='import sys, pathlib; from split_model.protocol.keys import make_pair; make_pair(pathlib.Path(sys.argv[1]), "trial")'
"\$release/venv/bin/python" -c "\$make_keys" .
: >devices
cat >config.toml <<TOML
server = { key = "trial.key", devices = "devices", bundles = ["\$release/bundles"] }
TOML
exec "\$release/venv/bin/cloud-server" config check -c config.toml
SCRIPT
}

# Forget a release that is not in use.
discard() {
    [ "$(current)" = "$1" ] || rm -rf "$home/releases/$1"
}

# --- activate RELEASE [SHA256 PATH]...: switch to it, and back again by itself if it does not answer. --------------
# The configs that we offer come as a tar on standard input, named by their hashes. The work is done by a unit of its
# own: a connection that breaks now does not break the switch.

step_activate() {
    release=$1
    installed "$release"
    shift
    rm -rf "$home/configs"
    mkdir -p "$home/configs"
    tar --extract --no-same-owner --directory "$home/configs" || true
    for hash in "$@"; do
        case $hash in /*) continue ;; esac
        [ -f "$home/configs/$hash" ] && [ "$(sha256 "$home/configs/$hash")" = "$hash" ] ||
            fail "the config did not arrive whole; run the same command again"
    done
    check_config "$release" "$@"
    rm -f "$home/outcome"
    printf '%s\n' "$text" >"$home/step.sh"
    systemctl reset-failed "$program-deploy.service" 2>/dev/null || true
    systemd-run --quiet --unit="$program-deploy" --collect --property=Type=oneshot --no-block \
        --description="Switch $program to release $release" \
        sh "$home/step.sh" "$program" switch "$release" "$@"
    follow
}

# The new release reads the config it would have, while the old one runs: to this command alone, both are in place. It is
# the service's user in the service's sandbox, as with a reload, and reads no key.
check_config() {
    old=$(current)
    [ -n "$old" ] && [ -f "$config" ] || return 0
    candidate=$1
    shift
    rm -rf "$home/trial"
    mkdir -p "$home/trial"
    cp -a "/etc/$program" "$home/trial/etc"
    find "$home/trial/etc" -name '*.key' -exec rm -f {} +
    while [ $# -gt 0 ]; do
        if [ ! -f "$2" ] || [ "$(sha256 "$2")" = "$(recorded placed "$2")" ]; then
            mkdir -p "$home/trial/etc$(dirname "${2#"/etc/$program"}")"
            cp "$home/configs/$1" "$home/trial/etc${2#"/etc/$program"}"
        fi
        shift 2
    done
    confined "$candidate" <<UNIT
ReadWritePaths=-/var/lib/$program -/run/$program
InaccessiblePaths=$system_sockets
BindReadOnlyPaths=$home/releases/$candidate:$home/releases/$old $home/trial/etc:/etc/$program
ExecStart=$home/current/bin/$program config check --without-key -c $config
UNIT
    if [ "$ended" -eq 0 ]; then
        rm -rf "$home/trial"
        return
    fi
    note "config refused: $result $ended"
    said=$(complaint)
    code=65
    if unconfined; then
        code=71
        said="the config could not be checked in the service's sandbox: $said ($result $ended); see 'journalctl -u $cell' there"
    fi
    rm -rf "$home/trial"
    discard "$candidate"
    say "${said:-the new release does not accept the config}"
    exit "$code"
}

# Print what the switch under way says, and end as it ends.
follow() {
    waited=0 # a unit that has only just been asked for is inactive, too
    while [ ! -f "$home/outcome" ]; do
        sleep 0.2
        case $(systemctl is-active "$program-deploy.service") in
        active | activating | reloading | deactivating) waited=0 ;;
        *) waited=$((waited + 1)) ;;
        esac
        [ "$waited" -lt 25 ] || fail "the switch was stopped halfway; run the same command again"
    done
    read -r code said <"$home/outcome"
    [ ! -f "$home/kept" ] || cat "$home/kept"
    [ "$code" -eq 0 ] || { say "$said" && exit "$code"; }
}

outcome() {
    note "$2"
    rm -f "$home/step.sh"
    printf '%s %s\n' "$1" "$2" >"$home/outcome.new"
    sync "$home/outcome.new"
    mv "$home/outcome.new" "$home/outcome"
}

step_switch() {
    release=$1
    shift
    old=$(current)
    [ -d "$home/releases/$release" ] || fail "release $release is not installed"
    rm -rf "$home/before" "$home/kept"
    mkdir -p "$home/before"
    echo "$old" >"$home/before/release"
    [ ! -f "$home/placed" ] || cp -p "$home/placed" "$home/before/placed"
    [ ! -f "$home/offered" ] || cp -p "$home/offered" "$home/before/offered"
    note "switch from ${old:-nothing} to $release"
    undo_at_boot
    touch "$home/before/complete"
    sync -f "$home"
    restarted=
    trap 'switch_failed $?' EXIT
    place_all "$release" "$@"
    point_to "$release"
    restarted=yes
    if start_and_watch; then
        enable_and_link
        forget_before
        trap - EXIT
        prune || note "what is not needed any more could not be removed" # meanwhile the waiting deployment has the lock
        outcome 0 "in use: $release"
    else
        why=$(why_not)
        trap - EXIT
        go_back
        outcome 70 "release $release did not answer ($why); $back"
    fi
}

# A command of the switch itself failed, on a full disk, say.
switch_failed() {
    trap - EXIT
    go_back
    outcome 70 "the switch failed (exit $1, see 'journalctl -u $program-deploy' there); $back"
}

# After a power cut there is nobody who would come back: this unit does, and is there for as long as the switch takes.
undo_at_boot() {
    mkdir -p /etc/systemd/system/multi-user.target.wants
    cat >"$undo" <<UNIT
[Unit]
Description=Undo a switch of $program that was cut off
ConditionPathExists=$home/before/complete
RequiresMountsFor=$home /etc/$program
After=local-fs.target
Before=$unit

[Service]
Type=oneshot
ExecStart=/bin/sh $home/step.sh $program undo
UNIT
    ln -sf "../$program-undo.service" /etc/systemd/system/multi-user.target.wants/
    sync -f "$undo"
}

no_undo_at_boot() {
    [ -f "$undo" ] || return 0
    rm -f "/etc/systemd/system/multi-user.target.wants/$program-undo.service" "$undo"
    systemctl daemon-reload
}

# Keep the present state: remove the copy of the earlier one. Its mark goes first: half a copy must not be restored.
forget_before() {
    sync
    rm -f "$home/before/complete"
    sync -f "$home"
    rm -rf "$home/before"
    no_undo_at_boot
}

point_to() {
    ln -sfn "releases/$1" "$home/current.new"
    mv -T "$home/current.new" "$home/current"
    sync -f "$home"
}

# Everything of a release that lies outside of our folder.
place_all() {
    listed "$1" system | while read -r hash path; do place "$home/releases/$1/system/$path" "/$path" "$hash"; done
    systemd-sysusers 2>/dev/null || true
    systemd-tmpfiles --create 2>/dev/null || true
    [ "$program" != edge-runtime ] || place_client
    mkdir -p "/etc/$program/conf.d"
    shift
    while [ $# -gt 0 ]; do
        place "$home/configs/$1" "$2" "$1"
        record offered "$2" "$1"
        shift 2
    done
    rm -rf "$home/configs"
    systemctl daemon-reload
}

# One import of the client finds it in every Python of the system. The link 'current' decides which release's.
place_client() {
    echo "$home/current/client" >"$home/client.pth"
    for python in python3.14 python3.13 python3.12 python3.11 python3.10 python3; do
        command -v $python >/dev/null || continue
        $python -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))' || true
    done | sort -u | while read -r folder; do
        case $folder in /usr/*) place "$home/client.pth" "$folder/edge-runtime.pth" "$(sha256 "$home/client.pth")" ;; esac
    done
    rm -f "$home/client.pth"
}

# place SOURCE PATH SHA256: never over an edit of the user's.
place() {
    was=$(recorded placed "$2")
    if [ -f "$2" ]; then
        now=$(sha256 "$2")
        if [ "$now" = "$3" ]; then
            record placed "$2" "$3"
            return
        fi
        if [ "$now" != "$was" ]; then
            if [ "$(recorded offered "$2")" != "$3" ]; then
                cp "$1" "$2.new"
                note "kept $2, which was edited; ours is $2.new"
                echo "kept $2: it was edited there; what it would be now is in $2.new" >>"$home/kept"
            fi
            return
        fi
        mkdir -p "$home/before/files$(dirname "$2")"
        cp -p "$2" "$home/before/files$2"
    else
        echo "$2" >>"$home/before/absent"
    fi
    mkdir -p "$(dirname "$2")"
    printf '%s %s\n' "$3" "$2" >>"$home/before/ours"
    sync -f "$home/before" # on the disk before anything takes its place
    cp "$1" "$2.deploy-new"
    chmod 644 "$2.deploy-new"
    sync "$2.deploy-new"
    mv "$2.deploy-new" "$2"
    record placed "$2" "$3"
}

# The program itself says when it can answer; then it has to stay up for a while.
start_and_watch() {
    systemctl reset-failed "$unit" 2>/dev/null || true
    timeout "$ready_within_s" systemctl restart "$unit" || return 1
    process=$(systemctl show --value --property=MainPID "$unit")
    sleep "$steady_for_s"
    answers || return 1
    [ "$(systemctl show --value --property=MainPID "$unit")" = "$process" ]
}

# Does the program itself say that it answers? One that still starts is waited for.
answers() {
    waited_s=0
    until systemctl is-active --quiet "$unit" &&
        "$home/current/bin/$program" status -c "$config" --json >/dev/null 2>&1; do
        case $(systemctl is-active "$unit")/$(systemctl show --value --property=SubState "$unit") in
        */auto-restart) return 1 ;;
        active/* | reloading/*) [ "$waited_s" -lt "$status_within_s" ] || return 1 ;;
        activating/*) [ "$waited_s" -lt "$ready_within_s" ] || return 1 ;;
        *) return 1 ;;
        esac
        sleep 1
        waited_s=$((waited_s + 1))
    done
}

why_not() {
    lines=$(journalctl --unit "$unit" --no-pager --output=cat --lines=30 2>/dev/null |
        grep ': error: ' | tail -n 1 | cut -c1-300)
    echo "${lines:-see 'journalctl -u $program' there}"
}

# Is a file as this switch has put it there? If not, it stays as it is: somebody has edited it since.
is_ours() { # PATH
    [ -f "$home/before/ours" ] || return 1
    now=$(sha256 "$1")
    ! grep -qxF "$now $1" "$home/before/ours" || return 0
    if [ ! -f "$home/before/files$1" ] || [ "$now" != "$(sha256 "$home/before/files$1")" ]; then
        note "kept $1, which was edited since"
        echo "kept $1: it was edited there since the switch that is undone" >>"$home/kept"
    fi
    return 1
}

# Restore files, link and service as they were before the switch. $back: the release that is in use then.
go_back() {
    old=$(cat "$home/before/release")
    if [ -d "$home/before/files" ]; then
        (cd "$home/before/files" && find . -type f) | cut -c2- | while read -r path; do
            [ ! -f "$path" ] || is_ours "$path" || continue
            cp -p "$home/before/files$path" "$path.deploy-new"
            sync "$path.deploy-new"
            mv "$path.deploy-new" "$path"
        done
    fi
    if [ -f "$home/before/absent" ]; then
        while read -r path; do
            [ ! -f "$path" ] || ! is_ours "$path" || rm -f "$path"
        done <"$home/before/absent"
    fi
    for file in placed offered; do
        if [ -f "$home/before/$file" ]; then cp -p "$home/before/$file" "$home/$file"; else rm -f "$home/$file"; fi
    done
    if [ -n "$old" ]; then
        point_to "$old"
        systemctl daemon-reload
        systemctl reset-failed "$unit" 2>/dev/null || true
        back="$old is in use, as before"
        if [ -n "${restarted-yes}" ]; then
            if timeout "$ready_within_s" systemctl restart "$unit"; then
                back="$old is in use again, as before"
            else
                back="$old is in its place again, but does not start: see 'journalctl -u $program' there"
            fi
        fi
    else
        rm -f "$home/current"
        systemctl stop "$unit" 2>/dev/null || true
        back="nothing is in use, as before"
        systemctl daemon-reload
        systemctl reset-failed "$unit" 2>/dev/null || true
    fi
    forget_before
}

enable_and_link() {
    systemctl enable --quiet "$unit"
    link=/usr/local/bin/$program
    case $(readlink "$link" || true) in
    "$home"/*) ;;
    *) [ ! -e "$link" ] && [ ! -L "$link" ] || { echo "kept $link: it is not ours" >>"$home/kept" && return; } ;;
    esac
    ln -sfn "$home/current/bin/$program" "$link"
}

# Keep the release in use, the one before it, and the parts that they need; remove the rest.
prune() {
    ls -1t "$home/releases" | grep -v -e "^$(current)\$" | tail -n +2 | while read -r name; do rm -rf "$home/releases/$name"; done
    cat "$home"/releases/*/manifest | awk '{ print $2 }' | sort -u >"$home/needed" || return 1
    for path in "$home"/store/* "$home"/environments/*; do
        [ ! -e "$path" ] || grep -qx "$(basename "$path")" "$home/needed" || rm -rf "$path"
    done
    rm -rf "$home/incoming" "$home/needed"
}

# --- begin: wait for a switch that goes on by itself, or undo one that was cut off by a power failure. ---------------

# A link that went down silently leaves a step here that waits for the rest of a file, perhaps for hours.
end_stalled() {
    [ -f "$home/receiving" ] || return 0
    read -r process its_boot <"$home/receiving" || true
    if [ "$its_boot" != "$(cat /proc/sys/kernel/random/boot_id)" ] || [ "$(cat "/proc/$process/comm")" != tar ]; then
        rm -f "$home/receiving" # it is gone, and its number may be another's
        return 0
    fi 2>/dev/null
    before=$(du -s "$home/incoming")
    sleep 5
    if [ -f "$home/receiving" ] && [ "$(du -s "$home/incoming")" = "$before" ]; then
        kill "$process" 2>/dev/null || true
        rm -f "$home/receiving"
    fi
}

# At boot, before the service starts, which must not be waited for here.
step_undo() {
    [ -f "$home/before/complete" ] || return 0
    note "a switch was cut off; going back"
    rm -f "$home/kept"
    restarted=
    go_back
    note "$back"
    {
        echo "begin    a switch that was cut off was undone at boot: $back"
        [ ! -f "$home/kept" ] || cat "$home/kept"
    } >"$home/undone"
    cat "$home/undone"
    rm -rf "$home/step.sh" "$home/configs"
}

# A switch whose deployment was killed goes on by itself; no other step may come between.
wait_for_switch() {
    while :; do
        case $(systemctl is-active "$program-deploy.service" || true) in
        active | activating | reloading | deactivating) sleep 0.5 ;;
        *) return 0 ;;
        esac
    done
}

step_begin() {
    if [ -f "$home/before/complete" ]; then
        if answers; then
            note "a switch that was cut off had come to its end"
            forget_before
        else
            note "a switch was cut off; going back"
            rm -f "$home/kept"
            go_back
            note "$back"
            echo "begin    a switch that was cut off is undone: $back"
            [ ! -f "$home/kept" ] || cat "$home/kept"
        fi
    fi
    [ ! -f "$home/undone" ] || cat "$home/undone"
    no_undo_at_boot
    rm -rf "$home/before" "$home/undone" "$home/keys.new" "$home/configs" "$home/trial" "$home"/releases/*.partial
}

# --- doctor, uninstall -----------------------------------------------------------------------------------------------

step_doctor() {
    "$home/current/bin/$program" doctor -c "$config" || true
}

step_uninstall() { # [purge]
    purge=${1:-}
    systemctl disable --quiet --now "$unit" 2>/dev/null || true
    if [ -f "$home/placed" ]; then
        while read -r hash path; do
            case $path in "/etc/$program/"*) continue ;; esac
            [ -f "$path" ] || continue
            if [ "$(sha256 "$path")" = "$hash" ]; then
                rm -f "$path" "$path.new"
            else
                echo "kept $path: you have edited it"
            fi
        done <"$home/placed"
    fi
    rmdir --ignore-fail-on-non-empty /etc/sysusers.d /etc/bash_completion.d 2>/dev/null || true
    no_undo_at_boot
    systemctl daemon-reload
    systemctl reset-failed "$unit" 2>/dev/null || true
    for name in edge-runtime cloud-server; do
        case $(readlink "/usr/local/bin/$name" || true) in "$home"/*) rm -f "/usr/local/bin/$name" ;; esac
    done
    rm -rf "$home"
    if [ "$purge" = purge ]; then
        rm -rf "/etc/$program" "/var/lib/$program"
        ! getent passwd "$program" >/dev/null || userdel "$program" 2>/dev/null || true
        [ "$program" != edge-runtime ] || groupdel edge-clients 2>/dev/null || true
        return
    fi
    [ ! -d "/etc/$program" ] || echo "kept /etc/$program: the config and the keys"
    [ ! -d "/var/lib/$program" ] || echo "kept /var/lib/$program: its state"
    ! getent passwd "$program" >/dev/null || echo "kept the system user $program, who owns these"
}

case $step in
facts) step_facts ;;
doctor) step_doctor ;;
begin | packages | receive | install | keys | trial | activate | switch | undo | uninstall)
    # A connection that breaks does not stop a step halfway; the next deployment waits for it.
    trap '' HUP
    mkdir -p "$home"
    exec 9>>"$home/lock"
    [ "$step" != begin ] || end_stalled
    [ "$step" = switch ] || flock --wait 300 9 || fail "another deployment to this machine is under way"
    # What undoes a switch at boot comes before everything, and the switch does not wait for itself.
    case $step in switch | undo) ;; *) wait_for_switch ;; esac
    note "$step"
    "step_$step" "$@"
    ;;
*) fail "no step $step" ;;
esac
