"""802.1Q and 802.1ad: up to two tags, in any order, kept as they are."""

from lab import AD, IPV4, IPV6, PLAIN, Q, TAGS, Raw, ether, ip, packet, ping
from scapy.layers.l2 import ARP, Dot1Q, Ether

MORE_TAGS = (
    ("802.1Q twice", ((Q, 100), (Q, 200))),
    ("802.1ad twice", ((AD, 1), (AD, 4094))),
    ("QinQ upside down", ((Q, 100), (AD, 200))),
    ("a priority tag", ((Q, 0),)),
)


def ethertype(service):
    return IPV4 if service.family == 4 else IPV6


def cases(lab):
    for service in lab.four:
        for name, tags in TAGS + MORE_TAGS:
            case = lab.case(name, service).established(PLAIN.but(tags=tags))
            case.forward("pinned", PLAIN.but(tags=tags, fields=case.says()))
            yield case.reply(PLAIN.but(tags=tags, payload=b"odd", fields=case.answers()))
        yield from differing(lab, service)
        yield from to_the_host(lab, service)
        yield from cut(lab, service)
    for service in lab.services:
        if service.action == "REDIRECT":
            tags = ((AD, 100), (Q, 200))
            yield lab.case("QinQ, redirected", service).established(PLAIN.but(tags=tags))
    yield arp(lab)


def differing(lab, service):
    """Tags are the packet's own, no part of the flow."""
    case = lab.case("each packet with other tags", service).open()
    shape = PLAIN.but(payload=b"", tags=((Q, 9),), fields=case.first_answer())
    case.reply(shape)
    case.forward("pinned", PLAIN.but(tags=((AD, 1), (Q, 2)), fields=case.says()))
    case.reply(PLAIN.but(fields=case.answers()))
    yield case.forward("pinned", PLAIN.but(tags=((Q, 3),), fields=case.says()))

    case = lab.case("a wrong checksum under two tags", service).established()
    shape = PLAIN.but(tags=((AD, 1), (Q, 2)), error=0x0101)
    case.forward("pinned", shape.but(fields=case.says()))
    yield case.reply(shape.but(fields=case.answers()))

    case = lab.case("filled up to 64 bytes under a tag", service)
    shape = PLAIN.but(tags=((Q, 5),), payload=b"", pad=bytes(18))
    yield case.forward("new_flow", shape.but(fields=case.opening()))

    case = lab.case("a large frame under two tags", service)
    shape = PLAIN.but(tags=((AD, 1), (Q, 2)), payload=bytes(range(256)) * 34)
    case.established(shape)
    yield case.reply(shape.but(fields=case.answers()))


def to_the_host(lab, service):
    case = lab.case("three tags", service)
    tags = ((Q, 1), (Q, 2), (Q, 3))
    yield case.passes(case.frame(case.macs_in, case.to_vip, PLAIN.but(tags=tags)), "not_ip")

    case = lab.case("an older tag that nobody agreed on", service)
    tags = ((0x9100, 1),)
    yield case.passes(case.frame(case.macs_in, case.to_vip, PLAIN.but(tags=tags)), "not_ip")

    case = lab.case("TTL 1 under two tags", service)
    shape = PLAIN.but(ttl=1, tags=((AD, 1), (Q, 2)), fields=case.opening())
    yield case.passes(case.frame(case.macs_in, case.to_vip, shape), "ttl_expired")

    case = lab.case("ping under a tag", service)
    frame = ether(case.macs_in, ((Q, 1),), ethertype(service))
    yield case.passes(frame / ping(service.family, case.to_vip), "not_tcp_udp")

    case = lab.case("another protocol under two tags", service)
    field = {"proto" if service.family == 4 else "nh": 253}
    frame = ether(case.macs_in, ((AD, 1), (Q, 2)), ethertype(service))
    frame = frame / ip(service.family, case.to_vip, PLAIN, **field) / Raw(bytes(40))
    yield case.passes(frame, "not_tcp_udp")

    case = lab.case("not ours under a tag", service)
    ends = case.to_backend
    yield case.passes(case.frame(case.macs_in, ends, PLAIN.but(tags=((Q, 1),))), "not_ours")

    case = lab.case("a backend of no flow under a tag", service)
    ends = case.to_backend.back
    frame = case.frame(case.macs_from_backend, ends, PLAIN.but(tags=((Q, 1),)))
    yield case.passes(frame, "no_pin")

    # The EtherType after the tag counts, not what the packet looks like.
    case = lab.case("the other family's EtherType under a tag", service)
    other = IPV6 if service.family == 4 else IPV4
    inside = packet(service.family, service.protocol, case.to_vip, PLAIN)
    frame = ether(case.macs_in, ((Q, 1),), other) / inside
    # A datagram of IPv4 is shorter than a header of IPv6.
    short = len(bytes(inside)) < (40 if other == IPV6 else 20)
    yield case.passes(frame, "truncated" if short else "malformed")


def cut(lab, service):
    for name, tags, kept in (
        ("one tag, cut inside", ((Q, 1),), 17),
        ("one tag, nothing after", ((Q, 1),), 18),
        ("two tags, cut inside the second", ((AD, 1), (Q, 2)), 21),
        ("two tags, nothing after", ((AD, 1), (Q, 2)), 22),
        ("two tags, cut in the IP header", ((AD, 1), (Q, 2)), 41),
        ("one tag, cut in the transport header", ((Q, 1),),
         18 + (20 if service.family == 4 else 40) + 7),
    ):
        case = lab.case(name, service)
        whole = case.frame(case.macs_in, case.to_vip, PLAIN.but(tags=tags))
        yield case.passes(whole[:kept], "truncated")


def arp(lab):
    case = lab.case("ARP under a tag", lab.find(4, "tcp"))
    asks = ARP(op="who-has", hwsrc=case.mac, psrc=case.client, pdst=case.service.vip)
    frame = Ether(dst="ff:ff:ff:ff:ff:ff", src=case.mac, type=Q) / Dot1Q(vlan=3, type=0x0806)
    return case.passes(frame / asks, "not_ip")
