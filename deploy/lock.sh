#!/bin/sh
# Resolves requirements/*.lock from pyproject.toml, with hashes, for all platforms and Python 3.11 to 3.13.
# UV=/path/to/uv uses that; otherwise uv is installed into a folder that is thrown away.
set -eu

cd "$(dirname "$0")/.."
if [ -z "${UV:-}" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT INT TERM
    "${PYTHON:-python3}" -m venv "$work"
    "$work/bin/python" -m pip install --quiet --disable-pip-version-check uv
    UV=$work/bin/uv
fi

overrides=requirements/overrides.txt
resolve() {
    name=$1
    shift
    "$UV" pip compile pyproject.toml --quiet --universal --python-version 3.11 \
        --overrides "$overrides" \
        --generate-hashes --no-emit-index-url --no-header "$@" -o "requirements/$name.lock"
    echo "requirements/$name.lock: $(grep -c '==' "requirements/$name.lock") packages"
}

# Versions already in the files stay unless UPGRADE=1.
resolve dev ${UPGRADE:+--upgrade} --extra local --extra cpu --extra dev
# Bound by the first, so that both environments hold the same versions.
resolve local --extra local --extra cpu --constraints requirements/dev.lock
# One for each image. They differ in what they leave out, never in a version.
resolve api --extra api --constraints requirements/dev.lock
resolve worker --extra worker --extra grpc --extra formats --extra cpu --constraints requirements/dev.lock
resolve serving --extra serving --extra grpc --extra litert --extra cpu --constraints requirements/dev.lock
resolve tensorboard --extra board --extra profile --constraints requirements/dev.lock
# Here TensorFlow is wanted by that very name, with NVIDIA's libraries.
overrides=$(mktemp)
grep -v '^tensorflow==' requirements/overrides.txt >"$overrides"
resolve worker-gpu --extra worker --extra grpc --extra formats --extra gpu --constraints requirements/dev.lock
rm -f "$overrides"
