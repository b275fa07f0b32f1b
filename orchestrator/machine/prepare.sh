#!/bin/sh
# Gets what the two commands of the README need on a fresh Debian machine, and nothing that is there already:
# Debian packages, a running Docker engine, the virtual environment from the lock file.
#
#   prepare.sh demo    what the demo needs
#   prepare.sh test    that, and what the tests need
set -eu
purpose=${1:?demo or test}
here=$(cd "$(dirname "$0")/../.." && pwd)
cd "$here"

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
stop() { printf 'bulle: %s\n' "$*" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || stop "this needs Linux; here is $(uname -s)."
[ "$(id -u)" = 0 ] || stop "this needs root (containers, mounts): run it as root, or with sudo."
python=${PYTHON:-python3}
command -v "$python" >/dev/null || stop "Python 3.11 or newer is missing: apt-get install python3 python3-venv."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "Python 3.11 or newer is needed; $python is $("$python" -V)."

free_gb() { df -Pk "$1" | awk 'NR==2 {print int($4/1048576)}'; }
docker_root=/var/lib/docker; [ -d $docker_root ] || docker_root=/var/lib
for place in "$docker_root" "$here"; do
  if [ "$(free_gb "$place")" -lt 12 ]; then stop "12 GB free are needed on the disk of $place; there are $(free_gb "$place") GB."; fi
done

# --- Debian packages -------------------------------------------------------------------------------------------------
missing=""
want() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; } # want COMMAND PACKAGE
want dockerd docker.io
want mmdebstrap mmdebstrap
want iptables iptables
want npm npm
want node nodejs
want setpriv util-linux
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
[ "$purpose" = test ] && {
  want chromium chromium
  want softhsm2-util softhsm2
  want mkfs.ext4 e2fsprogs
  # Debian keeps the server's programs away from PATH, in a folder for each version
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
}
if [ -n "$missing" ]; then
  command -v apt-get >/dev/null || stop "these Debian packages are missing and there is no apt-get to install them:$missing"
  say "Installing Debian packages:$missing"
  export DEBIAN_FRONTEND=noninteractive
  case "$missing" in *postgresql*)
    # The tests start a server of their own; Debian's package would start another, and leave it running.
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
      echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    ;;
  esac
  log=$(mktemp)
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1 ||
    { tail -n 15 "$log" >&2; stop "apt-get could not install:$missing (is a Debian mirror set and reachable?)."; }
  rm -f "$log"
fi

# --- Docker engine ---------------------------------------------------------------------------------------------------
answers() { "$python" - <<'P'
import os, socket, sys
where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
if not where.startswith("unix://"):
    sys.exit(0)
try:
    with socket.socket(socket.AF_UNIX) as engine:
        engine.settimeout(5)
        engine.connect(where.removeprefix("unix://"))
        engine.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        sys.exit(0 if b"200" in engine.recv(64) else 1)
except OSError:
    sys.exit(1)
P
}
start_engine() {
  rm -f /var/run/docker.pid
  setsid nohup dockerd >>/var/log/dockerd.log 2>&1 </dev/null &
  engine=$!
}
if ! answers; then
  say "Starting the Docker engine"
  if [ -d /run/systemd/system ]; then
    systemctl start docker || true
  else
    mkdir -p /var/log
    start_engine
  fi
  tries=0
  until answers; do
    tries=$((tries + 1))
    # one that was killed before can fail at its first start, while it finds what it left
    [ -z "${engine:-}" ] || kill -0 "$engine" 2>/dev/null || start_engine
    [ "$tries" -lt 60 ] || stop "the Docker engine does not start: see 'journalctl -u docker' or /var/log/dockerd.log."
    sleep 1
  done
fi

# --- virtual environment ---------------------------------------------------------------------------------------------
lock=images/requirements.lock
[ "$purpose" = test ] && lock=tests/requirements.lock
stamp=$(cat "$lock" pyproject.toml | sha256sum | cut -c1-16)-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
have=$(cat .venv/bulle-stamp 2>/dev/null || true)
case " $have " in
  *" $purpose:$stamp "*) ;;
  *)
    say "Making the virtual environment (.venv) from $lock"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    log=$(mktemp)
    .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r "$lock" >"$log" 2>&1 ||
      { tail -n 15 "$log" >&2; stop "pip could not install $lock (is a package index set and reachable?)."; }
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . >"$log" 2>&1 ||
      .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps -e . >"$log" 2>&1 ||
      { tail -n 15 "$log" >&2; stop "pip could not install Bulle itself."; }
    rm -f "$log"
    # the tests' lock holds all of the demo's, so it stands for both
    [ "$purpose" = test ] && stamp="$stamp demo:$(cat images/requirements.lock pyproject.toml | sha256sum | cut -c1-16)-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    printf '%s' "$purpose:$stamp" >.venv/bulle-stamp
    ;;
esac
