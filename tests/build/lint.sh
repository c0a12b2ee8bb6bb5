#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: scripts are shellcheck-clean, Python compiles, every file has its licence
# kind: host
# tier: 1
# takes: 12
# timeout: 200

set -euo pipefail
mapfile -t files < <(git ls-files 2>/dev/null || find . -path ./build -prune -o \
	-path ./.git -prune -o -type f -printf '%P\n')

shell=()
python=()
for f in "${files[@]}"; do
	[[ -f $f ]] || continue
	case $(head -n 1 "$f" | tr -d '\0') in
	'#!/bin/bash'* | '#!/bin/sh'*) shell+=("$f") ;;
	'#!/usr/bin/env python3'*) python+=("$f") ;;
	esac
	case $f in
	*.py) python+=("$f") ;;
	COPYING | VERSION | README.md | .gitignore | .shellcheckrc | MAINTAINERS | \
	patches/*.patch | patches/*/cover | packaging/debian/*) continue ;;
	esac
	head -n 5 "$f" | grep -q 'SPDX-License-Identifier' ||
		{ echo "$f has no SPDX line"; exit 1; }
done
shellcheck -x "${shell[@]}" scripts/common.sh tests/rig/l1.sh
PYTHONPYCACHEPREFIX=$(mktemp -d) python3 -m py_compile "${python[@]}"

# No mirror that this machine happens to use is named anywhere.
# shellcheck disable=SC2016 # apt-get expands it
hosts=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
	sed -n 's,^https\?://\([^/]*\)/.*,\1,p' | sort -u)
for h in $hosts; do
	! grep -lF -- "$h" "${files[@]}" || { echo "names the mirror $h"; exit 1; }
done
