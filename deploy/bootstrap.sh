#!/bin/sh
# Makes .venv from a lock file, once: deploy/bootstrap.sh [local|dev]
#
# Needs Python 3.11 to 3.13 and nothing else; no root. PYTHON=/path/to/python overrides the choice,
# VENV=/path the place. A stamp with the lock's hash makes the next call return at once. An interrupted
# install leaves no stamp, so the next call goes on with it.
set -eu

cd "$(dirname "$0")/.."
name=${1:-local}
lock=requirements/$name.lock
venv=${VENV:-.venv}

fail() {
    printf 'bootstrap: %s\n' "$1" >&2
    exit 1
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

supported() {
    case $(version_of "$1") in 3.11 | 3.12 | 3.13) return 0 ;; *) return 1 ;; esac
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        supported "$PYTHON" || fail "PYTHON=$PYTHON is version '$(version_of "$PYTHON")'; Modelyard needs Python 3.11, 3.12 or 3.13."
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        # A version manager's shim can be on PATH without the version behind it: ask, do not trust the name.
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    found=$(version_of python3)
    fail "found no Python 3.11, 3.12 or 3.13 (python3 is '${found:-missing}'). Install one, or name it: make PYTHON=/path/to/python3.12 ..."
}

digest() {
    "$venv/bin/python" -c 'import hashlib, sys
print(hashlib.sha256(b"".join(open(f, "rb").read() for f in sys.argv[1:])).hexdigest())' "$1" pyproject.toml setup.py services/serving/*.c
}

# A development environment holds all that the local one does.
ready() {
    [ -x "$venv/bin/python" ] || return 1
    for candidate in "$name" dev; do
        stamp=$venv/.modelyard-$candidate
        if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(digest "requirements/$candidate.lock")" ]; then
            return 0
        fi
    done
    return 1
}

# Debian splits ensurepip off into python3-venv. Its pip wheel can be fetched without root.
debian_pip() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT INT TERM
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    if ! (cd "$work" && apt-get download python3-pip-whl >/dev/null 2>&1); then
        # No package lists on this machine (a fresh container): fetch them into a folder of our own.
        mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
        set -- -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=
        (cd "$work" && apt-get "$@" update >/dev/null 2>&1 && apt-get "$@" download python3-pip-whl >/dev/null 2>&1) || return 1
    fi
    dpkg -x "$work"/python3-pip-whl_*.deb "$work/pip" || return 1
    for wheel in "$work"/pip/usr/share/python-wheels/pip-*.whl; do
        PYTHONPATH=$wheel "$venv/bin/python" -m pip install --quiet --no-index "$wheel" || return 1
    done
    rm -rf "$work"
    trap - EXIT INT TERM
}

make_venv() {
    python=$(choose_python) || exit 1
    echo "bootstrap: making $venv with $python ($("$python" -V 2>&1))"
    rm -rf "$venv"
    if "$python" -c 'import ensurepip' 2>/dev/null; then
        "$python" -m venv "$venv"
        return
    fi
    "$python" -m venv --without-pip "$venv" ||
        fail "$python can't make virtual environments. Install its venv module (Debian: apt-get install python3-venv)."
    debian_pip || {
        rm -rf "$venv"
        fail "$python has no ensurepip, and its pip could not be fetched. Install it (Debian: apt-get install python3-venv), or name another Python: make PYTHON=/path/to/python3.12 ..."
    }
}

[ -f "$lock" ] || fail "there is no $lock"
if ready; then
    exit 0
fi

began=$(date +%s)
if ! { [ -x "$venv/bin/python" ] && supported "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    make_venv
fi
free_mb=$(df -Pk "$venv" | awk 'NR == 2 { print int($4 / 1024) }')
[ "$free_mb" -ge 1000 ] || fail "only $free_mb MB are free here; the environment takes about 2500 MB."

echo "bootstrap: installing $(grep -c '==' "$lock") pinned packages from $lock (2 GB on disk; 1 to 5 minutes the first time)"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
# The build tool first, from the lock: one dependency is a source archive, and must not be built with
# whatever version an index offers that day.
build=$(mktemp)
awk '/^setuptools==/ { on = 1 } on { print } on && !/\\$/ { exit }' "$lock" >"$build"
"$venv/bin/python" -m pip install -qq --require-hashes -r "$build" || { rm -f "$build"; exit 1; }
rm -f "$build"
# The lock is complete. --no-deps: tensorflow-serving-api would ask for a second TensorFlow, see overrides.txt.
"$venv/bin/python" -m pip install -qq --no-deps --require-hashes --no-build-isolation -r "$lock"
"$venv/bin/python" -m pip install -qq --no-deps --no-build-isolation -e .
digest "$lock" >"$venv/.modelyard-$name"
echo "bootstrap: ready in $(($(date +%s) - began)) s"
