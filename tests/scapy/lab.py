"""What all cases are made with: frames in, and what must come out of them.

Each frame is a fresh Scapy packet, so every length and checksum is Scapy's. The
frame that must come out is built again from its own addresses, never derived
from the one that went in: nothing here knows how a checksum is updated.
"""

from dataclasses import dataclass, field, replace

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

IPV4 = 0x0800
IPV6 = 0x86DD
# Pairs of EtherType and VLAN number, the outermost first.
Q, AD = 0x8100, 0x88A8
TAGS = (
    ("802.1Q", ((Q, 7),)),
    ("802.1ad", ((AD, 4000),)),
    ("QinQ", ((AD, 100), (Q, 200))),
)
SYN, ACK, PUSH, RST, FIN = "S", "A", "PA", "R", "F"

# Where the two ends begin to count. Any numbers do; they must only fit.
CLIENT_SEQ = 1000
BACKEND_SEQ = 900_000


@dataclass(frozen=True)
class Service:
    """A VIP and its one backend, as the test has configured them."""

    family: int
    protocol: str
    vip: str
    vip_port: int
    backend: str
    backend_port: int
    # How packets towards the backend leave: TX or REDIRECT.
    action: str

    @property
    def name(self):
        return f"IPv{self.family} {self.protocol.upper()}"

    @property
    def number(self):
        """IP's number of the protocol."""
        return {"tcp": 6, "udp": 17}[self.protocol]


@dataclass(frozen=True)
class Ends:
    """Who speaks to whom."""

    source: str
    sport: int
    destination: str
    dport: int

    @property
    def back(self):
        return Ends(self.destination, self.dport, self.source, self.sport)


@dataclass(frozen=True)
class Shape:
    """Everything of a frame that translation leaves alone."""

    # See TAGS.
    tags: tuple = ()
    # Of IPv4.
    options: tuple = ()
    # Of IPv6, in their order on the wire.
    extensions: tuple = ()
    ttl: int = 64
    payload: bytes = b"payload"
    # Bytes after the IP packet.
    pad: bytes = b""
    # Fields of the transport header.
    fields: dict = field(default_factory=dict)
    # A transport checksum that is wrong by this much.
    error: int = 0

    def but(self, **changes):
        return replace(self, **changes)


PLAIN = Shape()


def ether(macs, tags, ethertype):
    """Ethernet and VLAN tags; `macs` is destination and source."""
    types = [tag for tag, _ in tags] + [ethertype]
    frame = Ether(dst=macs[0], src=macs[1], type=types[0])
    for (_, vlan), inner in zip(tags, types[1:]):
        frame = frame / Dot1Q(vlan=vlan, prio=5, type=inner)
    return frame


def ip(family, ends, shape, **fields):
    """The IP header with its options or extension headers."""
    if family == 4:
        fields.setdefault("id", 0x1234)
        fields.setdefault("flags", "DF")
        options = [option.copy() for option in shape.options]
        return IP(src=ends.source, dst=ends.destination, ttl=shape.ttl, tos=0x2D,
                  options=options, **fields)
    packet = IPv6(src=ends.source, dst=ends.destination, hlim=shape.ttl, tc=0x2D,
                  fl=0x12345, **fields)
    for extension in shape.extensions:
        packet = packet / extension.copy()
    return packet


def transport(protocol, ends, shape):
    layer = TCP if protocol == "tcp" else UDP
    segment = layer(sport=ends.sport, dport=ends.dport, **shape.fields)
    return segment / Raw(shape.payload) if shape.payload else segment


def plus(checksum, difference):
    """Addition of the Internet checksum (RFC 1071)."""
    total = checksum + difference
    return (total & 0xFFFF) + (total >> 16)


def packet(family, protocol, ends, shape):
    """A whole IP packet with TCP or UDP in it."""
    built = ip(family, ends, shape) / transport(protocol, ends, shape)
    if shape.error:
        layer = TCP if protocol == "tcp" else UDP
        right = built.__class__(bytes(built))[layer].chksum
        built[layer].chksum = plus(right, shape.error)
    return built


class Case:
    """One flow, with a client of its own, and what happens to it in order."""

    def __init__(self, lab, name, service):
        self.lab = lab
        self.name = f"{service.name}: {name}"
        self.service = service
        self.steps = []
        number = lab.next_client()
        host = number % 250 + 1
        if service.family == 4:
            client = f"198.18.{number // 250}.{host}"
        else:
            client = f"2001:db8:1::{number // 250:x}:{host:x}"
        port = 20_000 + number * 7
        self.mac = f"02:00:00:01:{number >> 8:02x}:{number & 0xFF:02x}"
        self.to_vip = Ends(client, port, service.vip, service.vip_port)
        self.to_backend = Ends(client, port, service.backend, service.backend_port)

    @property
    def client(self):
        return self.to_vip.source

    @property
    def macs_in(self):
        """Of the client's frames as they arrive."""
        return (self.lab.ingress_mac, self.mac)

    @property
    def macs_reply(self):
        """Of the backend's frames as they leave: back the client's way."""
        return (self.mac, self.lab.ingress_mac)

    @property
    def macs_from_backend(self):
        return (self.lab.own_mac, self.lab.backend_mac)

    @property
    def macs_to_backend(self):
        return (self.lab.backend_mac, self.lab.own_mac)

    def frame(self, macs, ends, shape):
        ethertype = IPV4 if self.service.family == 4 else IPV6
        inside = packet(self.service.family, self.service.protocol, ends, shape)
        return bytes(ether(macs, shape.tags, ethertype) / inside) + shape.pad

    def step(self, frame, action, expected, reason):
        self.steps.append({
            "frame": bytes(frame).hex(),
            "action": action,
            "expected": "untouched" if expected is None else bytes(expected).hex(),
            "reason": reason,
        })
        return self

    def passes(self, frame, reason):
        """To the host, untouched."""
        return self.step(frame, "PASS", None, reason)

    def forward(self, reason, shape=PLAIN):
        """The client speaks to the VIP; the backend hears it."""
        return self.step(
            self.frame(self.macs_in, self.to_vip, shape),
            self.service.action,
            self.frame(self.macs_to_backend, self.to_backend, shape.but(ttl=shape.ttl - 1)),
            reason,
        )

    def reply(self, shape=PLAIN, reason="reply"):
        """The backend speaks to the client, who hears the VIP."""
        return self.step(
            self.frame(self.macs_from_backend, self.to_backend.back, shape),
            "TX",
            self.frame(self.macs_reply, self.to_vip.back, shape.but(ttl=shape.ttl - 1)),
            reason,
        )

    def says(self, flags=PUSH):
        """Fields of a segment of the client's after the handshake."""
        if self.service.protocol == "udp":
            return {}
        return {"flags": flags, "seq": CLIENT_SEQ + 1, "ack": BACKEND_SEQ + 1, "window": 8192}

    def answers(self, flags=PUSH):
        """The same of the backend's."""
        if self.service.protocol == "udp":
            return {}
        return {"flags": flags, "seq": BACKEND_SEQ + 1, "ack": CLIENT_SEQ + 1, "window": 4096}

    def opening(self):
        """Fields of the first segment."""
        if self.service.protocol == "udp":
            return {}
        return {"flags": SYN, "seq": CLIENT_SEQ, "options": [("MSS", 1460), ("SAckOK", b"")]}

    def first_answer(self):
        if self.service.protocol == "udp":
            return {}
        return {"flags": SYN + ACK, "seq": BACKEND_SEQ, "ack": CLIENT_SEQ + 1,
                "options": [("MSS", 1460), ("NOP", None), ("WScale", 7)]}

    def open(self, shape=PLAIN):
        """The first packet only: the flow is pinned."""
        empty = b"" if self.service.protocol == "tcp" else shape.payload
        return self.forward("new_flow", shape.but(payload=empty, fields=self.opening()))

    def established(self, shape=PLAIN):
        """A TCP handshake, or a datagram each way."""
        empty = b"" if self.service.protocol == "tcp" else shape.payload
        self.open(shape)
        self.reply(shape.but(payload=empty, fields=self.first_answer()))
        if self.service.protocol == "tcp":
            self.forward("pinned", shape.but(payload=b"", fields=self.says(ACK)))
        return self


class Lab:
    """The configuration that the test told us, and clients to go with it."""

    def __init__(self, told):
        self.ingress_mac = told["ingress_mac"]
        self.backend_mac = told["backend_mac"]
        self.own_mac = told["own_mac"]
        self.services = [Service(**service) for service in told["services"]]
        self._clients = 0

    def next_client(self):
        self._clients += 1
        return self._clients

    def case(self, name, service):
        return Case(self, name, service)

    def find(self, family, protocol, action="TX"):
        (found,) = [
            service for service in self.services
            if (service.family, service.protocol, service.action) == (family, protocol, action)
        ]
        return found

    @property
    def four(self):
        """Both families, both protocols."""
        return [self.find(family, protocol) for family in (4, 6) for protocol in ("tcp", "udp")]

    def of_family(self, family):
        return [service for service in self.four if service.family == family]


def ping(family, ends, shape=PLAIN):
    """An echo request."""
    from scapy.layers.inet6 import ICMPv6EchoRequest
    header = ip(family, ends, shape)
    if family == 4:
        return header / ICMP(id=7, seq=1) / Raw(b"abcdefgh")
    return header / ICMPv6EchoRequest(id=7, seq=1, data=b"abcdefgh")
