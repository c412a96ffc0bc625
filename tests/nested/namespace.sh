# A machine of its own, as far as networks and libvirt go: run by 'unshare --net --mount --pid --fork --mount-proc'.
# $1 is an empty directory. Ends, with every process in it, when it is killed.
set -eu
mkdir -p "$1/etc" "$1/run" "$1/lib/qemu" "$1/lib/dnsmasq" "$1/cache/qemu" "$1/log/qemu" "$1/cgroup"
cp -a /etc/libvirt/. "$1/etc/"
rm -f "$1"/etc/qemu/*.xml "$1"/etc/qemu/networks/*.xml "$1"/etc/qemu/networks/autostart/* "$1"/etc/qemu/autostart/*
# Of the image it would note an owner that stays when the namespace is killed, and keep other libvirts from it. $2 is 1
# where the files are the test's own.
echo "remember_owner = ${2:-0}" >> "$1/etc/qemu.conf"
chown --reference=/var/lib/libvirt/qemu "$1/lib/qemu"
mkdir -p /run/libvirt /var/cache/libvirt /var/log/libvirt
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/run" /run/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/cache" /var/cache/libvirt
mount --bind "$1/log" /var/log/libvirt
# /sys/class/net is that of the network namespace in which it was mounted.
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
ip link set lo up
sysctl -q -w net.bridge.bridge-nf-call-iptables=1
# An address of this machine that is nowhere private, and somebody on the Internet.
ip link add public type bridge
ip address add 192.0.2.1/32 dev public
ip link set public up
unshare --net sleep infinity &
outside=$!
# Until it has its own, its namespace is this one.
until [ "$(readlink "/proc/$outside/ns/net")" != "$(readlink "/proc/$$/ns/net")" ]; do sleep 0.01; done
ip link add wan type veth peer name eth0 netns "$outside"
ip address add 198.51.100.1/24 dev wan
ip link set wan up
nsenter --net --target "$outside" sh -c 'ip link set lo up; ip address add 198.51.100.2/24 dev eth0; ip link set eth0 up'
nsenter --net --target "$outside" python3 -c '
import socket
server = socket.create_server(("0.0.0.0", 80), backlog=64)
while True:
    connection, _ = server.accept()
    connection.sendall(b"outside\n")
    connection.close()
' &
virtlogd --daemon --pid-file /run/libvirt/virtlogd.pid
libvirtd --pid-file /run/libvirt/libvirtd.pid &
wait
