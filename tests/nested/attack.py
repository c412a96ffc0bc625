"""Run in a guest by `python3 -c`: try what a tenant may not do, and say what came of it. Standard library only.

argv[1] is JSON: {"tag": text, "spoof": bool, "tcp": [[name, address, port, source port or 0], ...],
"udp": [[address, port], ...]}. What is sent carries the tag, so that whoever listens knows it; printed is the names of
the TCP connections that came to something.
"""

import contextlib
import json
import socket
import struct
import sys
import threading
import time
from pathlib import Path

TIMEOUT_S = 4.0


def main() -> None:
    wanted = json.loads(sys.argv[1])
    tag = wanted["tag"].encode()
    if wanted["spoof"]:
        spoof(tag)
    for address, port in wanted["udp"]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
            sender.sendto(b"nestctl:udp:" + tag, (address, port))
    reached: list[str] = []
    threads = [threading.Thread(target=connect, args=(reached, *it)) for it in wanted["tcp"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(sorted(reached)))  # noqa: T201


def connect(reached: list[str], name: str, address: str, port: int, source: int) -> None:
    """Connect, and wait for a byte: every server here speaks first."""
    with socket.socket() as client:
        client.settimeout(TIMEOUT_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if source:
                client.bind(("", source))
            client.connect((address, port))
            if client.recv(1):
                reached.append(name)
        except OSError:
            pass


def spoof(tag: bytes) -> None:
    """Send, on the way out: an ARP answer for the gateway, and UDP from a foreign MAC and a foreign IP address."""
    interface, gateway = default_route()
    own_mac = bytes.fromhex(Path(f"/sys/class/net/{interface}/address").read_text().strip().replace(":", ""))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((socket.inet_ntoa(gateway), 9))
        own_ip = socket.inet_aton(probe.getsockname()[0])
    other_ip, other_mac = own_ip[:3] + b"\xc8", bytes.fromhex("52540000beef")
    everybody = b"\xff" * 6
    arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 2, own_mac, gateway, everybody, own_ip)
    frames = {
        b"arp": everybody + own_mac + b"\x08\x06" + arp,
        b"mac": everybody + other_mac + b"\x08\x00" + udp(own_ip, gateway, b"nestctl:mac:" + tag),
        b"ip": everybody + own_mac + b"\x08\x00" + udp(other_ip, gateway, b"nestctl:ip:" + tag),
        # That a frame of one's own gets onto the bridge shows that the three above could.
        b"own": everybody
        + own_mac
        + b"\x08\x06"
        + struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, own_mac, own_ip, b"\0" * 6, gateway),
    }
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((interface, 0))
        for _ in range(3):
            for kind, frame in frames.items():
                raw.send(frame if b"nestctl:" in frame else frame + b"nestctl:" + kind + b":" + tag)
            time.sleep(0.05)


def default_route() -> tuple[str, bytes]:
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == "00000000":
            return fields[0], bytes.fromhex(fields[2])[::-1]
    raise SystemExit("there is no default route")


def udp(source: bytes, destination: bytes, payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram, which needs no checksum of its own (RFC 768)."""
    datagram = struct.pack("!HHHH", 4000, 9, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0, source, destination)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + datagram


if __name__ == "__main__":
    main()
