#!/bin/sh
# A customize hook of mmdebstrap: make a root file system such as vendors' cloud images have, as one file.
set -eu
root=$1
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/etc/resolv.conf"
: > "$root/etc/machine-id"
ln -s /run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
echo "LABEL=cloud-root / ext4 defaults 0 1" > "$root/etc/fstab"
chroot "$root" systemctl -q enable systemd-networkd.service systemd-resolved.service ssh.service
# What a guest that only lives for a test does not need, and would wait for.
chroot "$root" systemctl -q mask systemd-networkd-wait-online.service e2scrub_reap.service libvirt-guests.service \
    apt-daily.timer apt-daily-upgrade.timer
# A disk on virtio is all that it has to find.
sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=zstd/' "$root/etc/initramfs-tools/initramfs.conf"
printf '%s\n' virtio_pci virtio_blk ext4 >> "$root/etc/initramfs-tools/modules"
chroot "$root" update-initramfs -u
kernel=$(basename "$root"/boot/vmlinuz-*)
mv "$root/boot/$kernel" "$root/boot/vmlinuz"
mv "$root/boot/initrd.img-${kernel#vmlinuz-}" "$root/boot/initrd"
mkdir -p "$root/boot/grub"
cat > "$root/boot/grub/grub.cfg" << 'END'
set timeout=0
linux /boot/vmlinuz root=LABEL=cloud-root ro console=tty0 console=ttyS0
initrd /boot/initrd
boot
END
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
plain=$(mktemp -d)
mount --bind "$root" "$plain"
# GRUB 2.06 reads no file system with what newer versions of mke2fs add.
mke2fs -q -t ext4 -L cloud-root -m 0 -O ^metadata_csum_seed,^orphan_file -E lazy_itable_init=1,lazy_journal_init=1 \
    -d "$plain" "$NESTCTL_IMAGE_OUTPUT/root.ext4"
umount "$plain"
rmdir "$plain"
