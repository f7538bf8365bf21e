#!/usr/bin/env bash
# Compiles shield.bpf.c. With clang 14 and llvm-strip 14 the object is the same to the byte wherever it is built; the one
# beside this script is what the program carries, so that a build needs no compiler for it. An argument names another place.
set -euo pipefail
cd "$(dirname "$0")"
out="${1:-shield.bpf.o}"
clang-14 -O2 -g -Wall -Werror -target bpf -mcpu=v3 -fdebug-compilation-dir=. -c shield.bpf.c -o "$out"
llvm-strip-14 -g "$out"
[ "$#" -gt 0 ] || sha256sum shield.bpf.o > shield.bpf.o.sha256
