#!/bin/sh
# Run inside the new root file system once its packages are installed: make it a guest that boots fast, has no
# identity of its own (the seed brings one), and can run guests itself.
set -eu
kernel=$(ls /lib/modules | sort -V | tail -n 1)

# systemd would take dbus's machine-id over, the same in every guest, were it left there.
rm -f /etc/ssh/ssh_host_* /etc/hostname /etc/resolv.conf /var/lib/dbus/machine-id /var/lib/systemd/random-seed
: > /etc/machine-id
# No password, and sshd takes keys only: the console belongs to whoever owns the hypervisor.
passwd -d root > /dev/null

# Only the x86_64 emulator: libvirt asks every emulator it finds for its capabilities, seconds each in a slow guest.
find /usr/bin -name 'qemu-system-*' ! -name 'qemu-system-x86_64*' -delete
mkdir -p /var/lib/libvirt/dnsmasq /var/lib/nestctl

# libvirtd starts when it is first called (its sockets are enabled), or with the guest where the seed says so: most guests
# have no use for it.
systemctl disable libvirtd.service
systemctl enable systemd-networkd.service ssh.service nestctl-ready.service \
    nestctl-libvirt-chains.service
# What a guest without hardware, without accounts to add and without logins on screens does not need. Under emulation
# every process at boot costs a second at the second level.
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer libvirt-guests.service systemd-timesyncd.service keyboard-setup.service console-setup.service \
    systemd-firstboot.service systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-pstore.service \
    systemd-sysusers.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
    systemd-network-generator.service systemd-repart.service getty@tty1.service sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount modprobe@dm_mod.service \
    modprobe@loop.service modprobe@fuse.service modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service
rm -rf /usr/lib/udev/hwdb.bin /usr/lib/udev/hwdb.d

# The initial RAM disk: busybox, the modules for the root disk, and one script. No udev runs twice.
ram=$(mktemp -d)
mkdir -p "$ram/bin" "$ram/modules" "$ram/dev" "$ram/proc" "$ram/sys" "$ram/root"
cp /bin/busybox "$ram/bin/"
cp /tmp/nestctl-init "$ram/init"
chmod 755 "$ram/init"
: > "$ram/modules/order"
for module in virtio_pci virtio_blk ext4; do
    modprobe --set-version "$kernel" --show-depends "$module" | while read -r kind path _; do
        [ "$kind" = insmod ] || continue # "builtin" needs no loading
        name=$(basename "$path" | sed 's/\.\(xz\|zst\|gz\)$//')
        [ ! -e "$ram/modules/$name" ] || continue
        case $path in
            *.zst) zstd -dqo "$ram/modules/$name" "$path" ;;
            *.xz) xz -dc "$path" > "$ram/modules/$name" ;;
            *.gz) gzip -dc "$path" > "$ram/modules/$name" ;;
            *) cp "$path" "$ram/modules/$name" ;;
        esac
        echo "$name" >> "$ram/modules/order"
    done
done
(cd "$ram" && find . | busybox cpio -o -H newc 2> /dev/null) > /boot/initrd.new
rm -rf "$ram" /boot/initrd.img* /initrd.img* /vmlinuz*
mv "/boot/vmlinuz-$kernel" /boot/vmlinuz
mv /boot/initrd.new /boot/initrd
# QEMU inside this guest runs as another account and boots the next level from these same two files.
chmod 644 /boot/vmlinuz /boot/initrd

rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt /tmp/nestctl-init
