#!/usr/bin/env bash
# newest.sh 3.14 [pytest arguments]: the short form of the tests on a CPython of Debian's testing, in a chroot; as root, on a Debian.
# It takes 3 minutes the first time, and is then kept in .nox. What is committed is tested.
set -eu
version=$1
shift
root=$PWD/.nox/forky-$version
mirror=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources)
if [ ! -e "$root/.made" ]; then
  command -v debootstrap >/dev/null || { apt-get update -q; apt-get install -y -q debootstrap; }
  rm -rf "$root"
  mkdir -p "$root"
  # an older debootstrap has no script named forky
  debootstrap --variant=minbase --include="python$version,python$version-venv,ca-certificates,git" \
    forky "$root" "$mirror" /usr/share/debootstrap/scripts/sid >"$root.log"
  cp /etc/resolv.conf /etc/hosts "$root/etc/"
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  touch "$root/.made"
fi
rm -rf "$root/src"
git clone -q . "$root/src"
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
trap 'umount "$root/proc"' EXIT
inside() { chroot "$root" env PYTHONDONTWRITEBYTECODE=1 ASYNCFLOW_TESTS=short PIP_FIND_LINKS= "$@"; }
inside bash -c "cd /src && python$version -m venv /venv && /venv/bin/pip install -q --upgrade pip &&
  /venv/bin/pip install -q -e '.[trio]' --group tests"
inside bash -c 'cd /src && exec /venv/bin/python -m pytest -n 2 -q "$@"' tests "$@"
