"""What a capture on a backend's wire says of its connections.

Reads tcpdump's file (nanoseconds, Ethernet) and prints, as JSON, the counts
and times of each server address. Written from docs/operating.md's words for
the counters, and from nothing else of canary's.
"""

import ipaddress
import json
import struct
import sys

FIN, SYN, RST, ACK = 1, 2, 4, 16


def packets(path):
    with open(path, "rb") as file:
        data = file.read()
    magic, linktype = struct.unpack_from("<I", data)[0], struct.unpack_from("<I", data, 20)[0]
    assert (magic, linktype) == (0xA1B23C4D, 1), "not tcpdump's nanoseconds on Ethernet"
    at = 24
    while at + 16 <= len(data):
        seconds, nanoseconds, kept, _ = struct.unpack_from("<IIII", data, at)
        at += 16
        yield seconds + nanoseconds / 1e9, data[at : at + kept]
        at += kept


class Segment:
    """A TCP segment over plain IPv4 or IPv6; its data may be cut short."""

    def __init__(self, frame):
        if frame[12:14] == b"\x08\x00":
            header = (frame[14] & 15) * 4
            self.ip_bytes = struct.unpack_from(">H", frame, 16)[0]
            protocol, ends = frame[23], (frame[26:30], frame[30:34])
        else:
            header = 40
            self.ip_bytes = 40 + struct.unpack_from(">H", frame, 18)[0]
            protocol, ends = frame[20], (frame[22:38], frame[38:54])
        if frame[12:14] not in (b"\x08\x00", b"\x86\xdd") or protocol != 6:
            raise ValueError("not TCP")
        tcp = 14 + header
        ports = struct.unpack_from(">HH", frame, tcp)
        self.source, self.destination = (ends[0], ports[0]), (ends[1], ports[1])
        self.seq, self.ack, offset, self.flags, self.window = struct.unpack_from(
            ">IIBBH", frame, tcp + 4
        )
        self.length = self.ip_bytes - header - (offset >> 4) * 4
        self.data = frame[tcp + (offset >> 4) * 4 :][: self.length]

    def has(self, flags):
        return self.flags & flags == flags


def before(a, b):
    return (a - b) & 0xFFFFFFFF > 0x7FFFFFFF


def is_drawn(seq):
    """Of a connection's later questions, those that are timed: one in eight."""
    return (seq * 0x9E3779B1 & 0xFFFFFFFF) >> 29 == 0


class Connection:
    def __init__(self, time, segment):
        self.isn = segment.seq
        self.asked_at = time
        self.answered = self.established = self.reset = self.data = self.closed = False
        self.next = {"client": segment.seq + 1, "backend": None}
        self.fins = set()
        self.alerts = set()
        self.failed = False
        self.waiting = None
        self.timed = False


class Server:
    def __init__(self):
        self.counts = {}
        self.handshakes = []
        self.first_bytes = []
        self.connections = {}
        self.ended = []

    def count(self, what, by=1):
        self.counts[what] = self.counts.get(what, 0) + by

    def see(self, time, segment, side):
        way = "in" if side == "client" else "out"
        self.count("packets_" + way)
        self.count("bytes_" + way, segment.ip_bytes)
        client = segment.source if side == "client" else segment.destination
        connection = self.connections.get(client)
        if side == "client" and segment.flags & (SYN | ACK | RST) == SYN:
            if connection and connection.isn == segment.seq:
                self.count("syn_retransmits")
                return
            if connection:
                self.ended.append(connection)
            self.connections[client] = Connection(time, segment)
            self.count("connections")
        elif connection is None:
            self.count("of_no_connection")
        elif segment.has(RST):
            self.see_reset(connection, side)
        elif side == "backend" and segment.has(SYN | ACK):
            self.see_syn_ack(connection, time, segment)
        else:
            self.see_segment(connection, time, segment, side)

    def see_syn_ack(self, connection, time, segment):
        if not connection.answered:
            connection.answered = True
            self.handshakes.append(time - connection.asked_at)
        if not connection.established:
            connection.next["backend"] = segment.seq + 1

    def see_reset(self, connection, side):
        if connection.reset:
            return
        connection.reset = True
        if connection.closed:
            self.count(f"resets_{side}_after_fin")
        elif not connection.established:
            if side == "backend":
                self.count("refused")
        else:
            self.count(f"resets_{side}")
            if connection.data:
                self.count(f"resets_{side}_after_data")

    def see_segment(self, connection, time, segment, side):
        if side == "client" and connection.answered and not connection.established:
            connection.established = True
            self.count("established")
        if segment.window == 0:
            self.count(f"zero_windows_{side}")
        if not connection.established:
            return
        expected = connection.next[side] & 0xFFFFFFFF
        probe = segment.length == 1 and (segment.seq + 1) & 0xFFFFFFFF == expected
        old = segment.length > 0 and before(segment.seq, expected) and not probe
        first = not connection.data
        if segment.length > 0:
            connection.data = True
        if old:
            self.count(f"retransmits_{side}")
        elif segment.length > 0:
            self.see_data(connection, time, segment, side, first)
        end = segment.seq + segment.length + segment.has(FIN)
        if before(expected, end & 0xFFFFFFFF):
            connection.next[side] = end
        if segment.has(FIN):
            connection.fins.add(side)
            if len(connection.fins) == 2 and not connection.closed:
                connection.closed = True
                self.count("closed")

    def see_data(self, connection, time, segment, side, first):
        data = segment.data
        if len(data) >= 7 and data[0] == 21 and data[1] == 3 and data[3:6] == b"\0\2\2":
            if side not in connection.alerts:
                connection.alerts.add(side)
                self.count(f"tls_alerts_{side}")
        if side == "client":
            if connection.waiting is None:
                connection.waiting = time
                connection.timed = first or is_drawn(segment.seq)
            return
        if connection.waiting is not None:
            if connection.timed:
                self.first_bytes.append(time - connection.waiting)
            connection.waiting = None
        if data[:8] in (b"HTTP/1.1", b"HTTP/1.0") and data[8:9] == b" ":
            status = chr(data[9])
            self.count(f"http_{status}xx")
            if status == "5" and not connection.failed:
                connection.failed = True
                self.count("connections_5xx")

    def finish(self):
        for connection in [*self.ended, *self.connections.values()]:
            over = connection.reset or connection.closed
            if not over and not connection.established:
                self.count("handshake_timeouts")
            elif not over and connection.waiting is not None:
                self.count("idle_cuts")
        return {
            "counts": self.counts,
            "handshake": sorted(self.handshakes),
            "first_byte": sorted(self.first_bytes),
        }


def main(path, *servers):
    """Each of `servers` is ADDRESS:PORT, an IPv6 address in brackets."""
    wanted = {}
    for name in servers:
        address, port = name.rsplit(":", 1)
        packed = ipaddress.ip_address(address.strip("[]")).packed
        wanted[packed, int(port)] = (name, Server())
    for time, frame in packets(path):
        try:
            segment = Segment(frame)
        except (ValueError, IndexError, struct.error):
            continue
        if segment.destination in wanted:
            wanted[segment.destination][1].see(time, segment, "client")
        elif segment.source in wanted:
            wanted[segment.source][1].see(time, segment, "backend")
    print(json.dumps({name: server.finish() for name, server in wanted.values()}))


main(*sys.argv[1:])
