"""IPv4 options, and IPv6's extension headers."""

from lab import IPV6, PLAIN, TAGS, Raw, ether, ip, ping
from scapy.layers.inet import (IPOption_EOL, IPOption_NOP, IPOption_Router_Alert, IPOption_RR,
                               IPOption_Security, IPOption_Stream_Id, IPOption_Timestamp)
from scapy.layers.inet6 import (IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop,
                                IPv6ExtHdrRouting, IPv6ExtHdrSegmentRouting, PadN, RouterAlert)

OPTIONS = (
    ("no operation", (IPOption_NOP(), IPOption_NOP(), IPOption_NOP(), IPOption_NOP())),
    ("router alert", (IPOption_Router_Alert(),)),
    ("record route", (IPOption_RR(routers=["0.0.0.0"] * 9), IPOption_EOL())),
    ("timestamps", (IPOption_Timestamp(flg=0, timestamp=0x01020304), IPOption_EOL())),
    ("security", (IPOption_Security(), IPOption_EOL())),
    ("all forty bytes", (IPOption_Stream_Id(security=0xBEEF),) * 10),
    ("an end and noise after it", (IPOption_EOL(), IPOption_NOP(), IPOption_NOP(),
                                   IPOption_EOL())),
)

HOPS = IPv6ExtHdrHopByHop(options=[RouterAlert(value=1)])
DESTINATION = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
ROUTED = IPv6ExtHdrRouting(type=2, segleft=0, addresses=["2001:db8:9::1"])
ROUTING = IPv6ExtHdrRouting(type=2, segleft=1, addresses=["2001:db8:9::1"])
SEGMENTS = IPv6ExtHdrSegmentRouting(segleft=0, lastentry=1,
                                    addresses=["2001:db8:9::1", "2001:db8:9::2"])
ATOMIC = IPv6ExtHdrFragment(offset=0, m=0, id=0xCAFE)
# What one byte of length can say at most.
LONGEST = IPv6ExtHdrDestOpt(
    options=[PadN(optdata=bytes(255))] * 7 + [PadN(optdata=bytes(245))])
EXTENSIONS = (
    ("hop-by-hop options", (HOPS,)),
    ("destination options", (DESTINATION,)),
    ("destination options of 40 bytes",
     (IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(36))]),)),
    ("destination options as long as can be", (LONGEST,)),
    ("a route that is done", (ROUTED,)),
    ("a segment list that is done", (SEGMENTS,)),
    ("an atomic fragment", (ATOMIC,)),
    ("two headers", (HOPS, DESTINATION)),
    ("three headers", (HOPS, ROUTED, DESTINATION)),
    ("four headers", (HOPS, DESTINATION, ROUTED, ATOMIC)),
    ("four of one kind", (DESTINATION,) * 4),
)
TO_THE_HOST = (
    ("a route with a segment left", (ROUTING,)),
    ("a segment list with one left",
     (IPv6ExtHdrSegmentRouting(segleft=1, lastentry=1,
                               addresses=["2001:db8:9::1", "2001:db8:9::2"]),)),
    ("a route with a segment left, after others", (HOPS, DESTINATION, ROUTING)),
    ("five headers", (HOPS, DESTINATION, ROUTED, ATOMIC, DESTINATION)),
)


def cases(lab):
    for protocol in ("tcp", "udp"):
        yield from options(lab, lab.find(4, protocol))
        yield from extensions(lab, lab.find(6, protocol))
        yield from hosts(lab, lab.find(6, protocol))
        yield from cut(lab, lab.find(6, protocol))


def both_ways(case, shape):
    case.established(shape)
    case.forward("pinned", shape.but(payload=b"odd", fields=case.says()))
    case.reply(shape.but(payload=b"even", fields=case.answers()))
    case.forward("pinned", shape.but(fields=case.says(), error=0x0101))
    return case.reply(shape.but(fields=case.answers(), error=0xFF00))


def options(lab, service):
    for name, given in OPTIONS:
        yield both_ways(lab.case(name, service), PLAIN.but(options=given))
        for kind, tags in TAGS:
            case = lab.case(f"{name}, {kind}", service)
            yield both_ways(case, PLAIN.but(options=given, tags=tags))
    case = lab.case("options come and go", service).open(PLAIN.but(options=OPTIONS[1][1]))
    case.reply(PLAIN.but(payload=b"", fields=case.first_answer()))
    yield case.forward("pinned", PLAIN.but(options=OPTIONS[2][1], fields=case.says()))

    case = lab.case("TTL 1 with options", service)
    shape = PLAIN.but(ttl=1, options=OPTIONS[1][1], fields=case.opening())
    yield case.passes(case.frame(case.macs_in, case.to_vip, shape), "ttl_expired")

    case = lab.case("cut inside the options", service)
    shape = PLAIN.but(options=OPTIONS[5][1])
    whole = case.frame(case.macs_in, case.to_vip, shape)
    yield case.passes(whole[:14 + 40], "truncated")


def extensions(lab, service):
    for name, given in EXTENSIONS:
        yield both_ways(lab.case(name, service), PLAIN.but(extensions=given))
        for kind, tags in TAGS:
            case = lab.case(f"{name}, {kind}", service)
            yield both_ways(case, PLAIN.but(extensions=given, tags=tags))
    case = lab.case("headers come and go", service).open(PLAIN.but(extensions=(HOPS,)))
    case.reply(PLAIN.but(payload=b"", fields=case.first_answer()))
    yield case.forward("pinned", PLAIN.but(extensions=(ATOMIC,), fields=case.says()))


def hosts(lab, service):
    for name, given in TO_THE_HOST:
        for kind, tags in (("untagged", ()), *TAGS):
            case = lab.case(f"{name}, {kind}", service).established()
            for macs, ends, fields in (
                (case.macs_in, case.to_vip, case.says()),
                (case.macs_from_backend, case.to_backend.back, case.answers()),
            ):
                shape = PLAIN.but(extensions=given, fields=fields, tags=tags)
                case.passes(case.frame(macs, ends, shape), "not_tcp_udp")
            yield case

    for name, number in (("authentication", 51), ("ESP", 50), ("mobility", 135), ("HIP", 139),
                         ("no next header", 59), ("an unknown one", 253)):
        for before in ((), (HOPS, DESTINATION)):
            case = lab.case(f"{name} after {len(before)} headers", service)
            header = ip(6, case.to_vip, PLAIN.but(extensions=before))
            header.lastlayer().nh = number
            frame = ether(case.macs_in, (), IPV6) / header / Raw(bytes(64))
            yield case.passes(frame, "not_tcp_udp")

    case = lab.case("ping after a header", service)
    frame = ether(case.macs_in, (), IPV6)
    yield case.passes(frame / ping(6, case.to_vip, PLAIN.but(extensions=(HOPS,))), "not_tcp_udp")

    case = lab.case("TTL 1 after a header", service)
    shape = PLAIN.but(ttl=1, extensions=(DESTINATION,), fields=case.opening())
    yield case.passes(case.frame(case.macs_in, case.to_vip, shape), "ttl_expired")

    case = lab.case("not ours after a header", service)
    shape = PLAIN.but(extensions=(DESTINATION,))
    yield case.passes(case.frame(case.macs_in, case.to_backend, shape), "not_ours")


def cut(lab, service):
    for name, given, kept in (
        ("nothing where a header should be", (HOPS,), 54),
        ("cut inside the first header", (HOPS, DESTINATION), 55),
        ("nothing where the second header should be", (HOPS, DESTINATION), 62),
        ("cut inside a fragment header", (ATOMIC,), 61),
        ("a header, and nothing of the transport's", (DESTINATION,), 62),
        ("a header, and seven bytes of the transport's", (DESTINATION,), 69),
        ("a header that says it is longer than the frame", (LONGEST,), 200),
    ):
        case = lab.case(name, service)
        whole = case.frame(case.macs_in, case.to_vip, PLAIN.but(extensions=given))
        yield case.passes(whole[:kept], "truncated")
