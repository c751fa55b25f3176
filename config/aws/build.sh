#!/usr/bin/env bash
# Make the Lambda's layer.zip and function.zip from uv.lock, without Docker; see `config/aws/build.sh --help`.
# PYTHON is the Python to run with and, by default, to build for: `PYTHON=python3.13 config/aws/build.sh`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

if ! command -v "$python" >/dev/null; then
    echo "$python was not found: install Python 3.11 or newer, or give its path: PYTHON=/path/to/python3 $0" >&2
    exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$python is $("$python" --version 2>&1): 3.11 or newer is needed, such as PYTHON=python3.13 $0" >&2
    exit 2
fi
exec "$python" "$here/build.py" "$@"
