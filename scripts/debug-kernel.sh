#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Build the debug flavour of the kernel (KASAN, lockdep, kmemleak, fault
# injection) from the distribution's own source, laid out like a fetched one:
# build/kernel/ABI-debug/{kdir,source,image/{vmlinuz,config,modules}}.
# The last line printed is its name.  Takes about half an hour on two cores.

. "$(dirname "$0")/common.sh"

[[ -L $BUILD/kernel/current ]] || "$TOP/scripts/fetch-kernel.sh" >/dev/null
abi=$(readlink "$BUILD/kernel/current")
base=$BUILD/kernel/$abi
dir=$BUILD/kernel/$abi-debug
obj=$dir/kdir
fragment=$TOP/tests/debug-kernel/debug.config
stamp="$(<"$base/version") $(sha256sum <"$fragment")"

if [[ ! -f $dir/stamp || $(<"$dir/stamp") != "$stamp" ]]; then
	mkdir -p "$obj" "$dir/image"
	rm -f "$dir/stamp"
	args=(-C "$base/source" "O=$obj" "-j${JOBS:-$(nproc)}")
	note CONFIG "debug kernel"
	make "${args[@]}" x86_64_defconfig >"$dir/build.log" 2>&1
	(cd "$obj" && "$base/source/scripts/kconfig/merge_config.sh" -O . -m \
		.config "$fragment") >>"$dir/build.log" 2>&1
	make "${args[@]}" olddefconfig >>"$dir/build.log" 2>&1
	# A symbol that quietly went away would make the flavour check less.
	while IFS= read -r line; do
		grep -qxF "$line" "$obj/.config" ||
			die "the debug configuration lost '$line'; correct ${fragment#"$TOP"/}"
	done < <(grep -E '^CONFIG_' "$fragment")
	note BUILD "debug kernel (log: ${dir#"$TOP"/}/build.log)"
	make "${args[@]}" bzImage modules >>"$dir/build.log" 2>&1 ||
		die "the debug kernel does not build; see $dir/build.log"
	rm -rf "$dir/image/modules.tmp"
	make "${args[@]}" INSTALL_MOD_PATH="$dir/image/modules.tmp" \
		modules_install >>"$dir/build.log" 2>&1
	rm -rf "$dir/image/modules"
	mv "$dir/image/modules.tmp/lib/modules/"* "$dir/image/modules"
	rm -rf "$dir/image/modules.tmp" "$dir/image/modules/"{build,source}
	cp "$obj/arch/x86/boot/bzImage" "$dir/image/vmlinuz"
	cp "$obj/.config" "$dir/image/config"
	ln -sfn "../$abi/source" "$dir/source"
	printf '%s\n' "$stamp" >"$dir/stamp"
fi
printf '%s\n' "$abi-debug"
