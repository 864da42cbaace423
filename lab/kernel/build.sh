#!/bin/dash
# Runs inside a throw-away Debian 13 tree (extracted packages, nothing configured) and leaves in /out all
# that boots: the node's kernel with its modules and initrd, and the guest's whole disk.
# The sources of the sample modules come from Debian's linux-source package (GPL-2.0); none of those are kept here.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
readonly LAB=/lab OUT=/out
# The kernel's build calls "awk"; its usual link is made by a maintainer script that did not run.
[ -e /usr/bin/awk ] || ln -s mawk /usr/bin/awk
mkdir -p "$OUT"

headers=$(echo /usr/src/linux-headers-*-amd64)
node_release=${headers#/usr/src/linux-headers-}
guest_boot=$(echo /boot/vmlinuz-*-cloud-amd64)
guest_release=${guest_boot#/boot/vmlinuz-}

build_modules() {
  mkdir /sample
  tar -xf /usr/src/linux-source-*.tar.xz -C /sample --strip-components=3 --wildcards '*/samples/vfio-mdev/*'
  cp "$LAB"/kernel/Kbuild "$LAB"/kernel/*.[ch] /sample/
  rm -f /sample/Makefile
  make -s -C "$headers" M=/sample CC="$(ls /usr/bin/gcc-[0-9]* | tail -n 1)" modules
  mkdir -p "/lib/modules/$node_release/updates"
  cp /sample/mbochs.ko /sample/mtty.ko /sample/nvidia.ko "/lib/modules/$node_release/updates/"
}

# pack_initrd RELEASE INIT OUTPUT MODULE... packs busybox, an init and the modules with all that they need,
# numbered in loading order.
pack_initrd() {
  release=$1 init=$2 output=$3
  shift 3
  tree=$(mktemp -d)
  mkdir -p "$tree/bin" "$tree/dev" "$tree/proc" "$tree/sys" "$tree/sysroot" "$tree/modules"
  cp /usr/bin/busybox "$tree/bin/busybox"
  ln -s busybox "$tree/bin/sh"
  install -m 755 "$init" "$tree/init"
  number=100
  for module in "$@"; do
    # Apart from sed, so that a module that is missing fails the build.
    commands=$(modprobe -S "$release" --show-depends "$module")
    for file in $(echo "$commands" | sed -n 's/^insmod \([^ ]*\).*/\1/p'); do
      number=$((number + 1))
      name=$(basename "${file%.xz}")
      ls "$tree/modules" | grep -q -- "-$name\$" && continue
      case $file in
        *.xz) xz -dc "$file" >"$tree/modules/$number-$name" ;;
        *) cp "$file" "$tree/modules/$number-$name" ;;
      esac
    done
  done
  (cd "$tree" && find . | cpio --quiet -o -H newc | gzip -1) >"$output"
}

# A FAT disk without a partition table: it needs no root to make and the BIOS starts it as it is. Behind the file system
# is room for the guest's stamp.
make_guest_disk() {
  disk=$OUT/guest.img
  truncate -s $((49152 * 512 + 4096)) "$disk"
  mformat -i "$disk" -v TRANCHE -T 49152 -h 16 -s 63 ::
  mcopy -i "$disk" "$guest_boot" ::vmlinuz
  mcopy -i "$disk" "$1" ::initrd
  mcopy -i "$disk" "$LAB/guest/syslinux.cfg" ::syslinux.cfg
  syslinux --install "$disk"
}

build_modules
depmod "$node_release"
depmod "$guest_release"
cp "/boot/vmlinuz-$node_release" "$OUT/vmlinuz"
pack_initrd "$node_release" "$LAB/node/init" "$OUT/initrd" virtio_blk ext4
tar -C / -cf "$OUT/modules.tar" "usr/lib/modules/$node_release"
pack_initrd "$guest_release" "$LAB/guest/init" "$OUT/guest-initrd" virtio_blk evdev button
cp "$guest_boot" "$OUT/guest-vmlinuz"
make_guest_disk "$OUT/guest-initrd"
echo "$node_release" >"$OUT/release"
chmod -R a+rX "$OUT"
