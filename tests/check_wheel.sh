#!/usr/bin/env bash
# Builds the wheel, installs it in a clean environment and checks it there: at the root of the repository
# mypy would silently see only part of the code.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m build --wheel --outdir "$work/dist" "$root" >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; exit 1; }
wheel=$(echo "$work"/dist/*.whl)

stray=$(python3 -m zipfile --list "$wheel" | awk 'NR > 1 {print $1}' | grep -v -e '^regime_proto/' -e '\.dist-info/' || true)
if [ -n "$stray" ]; then
    echo "files outside regime_proto/ in the wheel: $stray" >&2
    exit 1
fi

python3 -m venv "$work/clean"
"$work/clean/bin/pip" install --quiet --quiet --constraint "$root/constraints.txt" "$wheel[cpu,report]" mypy scipy-stubs
cd "$work"
clean/bin/regime --help >/dev/null
# What a page is made of lies in the wheel too.
clean/bin/regime example -o example.h5 --quiet
clean/bin/regime report example.h5 -o report.html --quiet
clean/bin/regime plot example.h5 -o figure.pdf --quiet
clean/bin/regime compare --reference paper >/dev/null
clean/bin/python - <<'PYTHON'
from importlib.metadata import entry_points

for group in ("regime_proto.adapters", "regime_proto.quantities"):
    entries = entry_points(group=group)
    assert entries, group
    for entry in entries:
        entry.load()
PYTHON
cp "$root/pyproject.toml" "$work/pyproject.toml"
clean/bin/mypy --config-file pyproject.toml -p regime_proto
echo "the wheel is sound"
