#!/bin/sh
# pack.sh ROOTFS.tar MODULES.tar GUEST.img OUTPUT: one ext4 disk from the node's root tree and what the kernel stage made.
# Runs as root, or as root of a user namespace: only file ownership needs it.
set -eu
readonly ROOTFS=$1 MODULES=$2 GUEST=$3 OUTPUT=$4 DISK_SIZE=6G
tree=$(mktemp -d "$(dirname "$OUTPUT")/tree.XXXXXX")
trap 'rm -rf "$tree"' EXIT
# Without device files, which a user namespace cannot make: the kernel fills /dev before the node looks at it.
tar -C "$tree" -xf "$ROOTFS" --numeric-owner --exclude='./dev/*'
tar -C "$tree" -xf "$MODULES" --no-overwrite-dir
install -D -m 644 "$GUEST" "$tree/usr/share/tranche-lab/guest.img"
# Sparse: only what is used takes room on the machine.
truncate -s "$DISK_SIZE" "$OUTPUT"
mke2fs -q -t ext4 -d "$tree" -L tranche-node "$OUTPUT"
