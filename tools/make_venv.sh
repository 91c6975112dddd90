#!/bin/sh
# Make a virtual environment, or say in one line what is missing for it.
#   PYTHON=python3 sh tools/make_venv.sh DIR
set -eu
dir=$1
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null 2>&1; then
    echo "holdfast: $python is not installed; it needs Python 3.11 or newer (Debian: apt-get install python3 python3-venv)" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "holdfast: $python is $("$python" -V 2>&1), and 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    echo "holdfast: $python cannot make virtual environments (Debian: apt-get install python3-venv)" >&2
    exit 1
fi
rm -rf "$dir"
"$python" -m venv "$dir"
