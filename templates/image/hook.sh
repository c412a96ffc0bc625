#!/bin/sh
# A customize hook of mmdebstrap: $1 is the new root; the files to fill are in a directory that comes as an
# open descriptor, so that nothing above it has to be open to mmdebstrap's account.
set -eu
here=$NESTCTL_IMAGE_FILES
cp -r "$here/root/." "$1/"
chown -R 0:0 "$1/etc"
cp "$here/init" "$1/tmp/nestctl-init"
cp "$here/customize.sh" "$1/tmp/customize.sh"
chroot "$1" sh /tmp/customize.sh
rm "$1/tmp/customize.sh"
chroot "$1" dpkg-query --show > "$1/usr/share/nestctl-packages"
cat "$1/boot/vmlinuz" > "$NESTCTL_IMAGE_OUTPUT/vmlinuz"
cat "$1/boot/initrd" > "$NESTCTL_IMAGE_OUTPUT/initrd"
# A bind mount that is not recursive leaves out what is mounted inside (/proc, /sys, /dev).
plain=$(mktemp -d)
mount --bind "$1" "$plain"
mke2fs -q -t ext4 -L nestctl -m 0 -E lazy_itable_init=1,lazy_journal_init=1 -d "$plain" \
    "$NESTCTL_IMAGE_OUTPUT/disk.raw"
umount "$plain"
rmdir "$plain"
