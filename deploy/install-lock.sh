#!/bin/sh
# Used while images are built: deploy/install-lock.sh LOCK FOLDER makes a virtual environment of one lock file.
set -eu
lock=$1
venv=$2
python -m venv "$venv"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
# The build tool first, from the lock: a source archive must not be built with whatever version is newest that day.
build=$(mktemp)
awk '/^setuptools==/ { on = 1 } on { print } on && !/\\$/ { exit }' "$lock" >"$build"
[ ! -s "$build" ] || "$venv/bin/pip" install -q --require-hashes -r "$build"
# --no-deps: the lock is complete, and tensorflow-serving-api would ask for a second TensorFlow.
"$venv/bin/pip" install -q --no-deps --require-hashes --no-build-isolation -r "$lock"
"$venv/bin/pip" uninstall -q -y pip
rm -f "$build"
