"""ICMP and ICMPv6 errors about packets of ours, in both directions.

What the error quotes is built from nothing too: the packet that its sender saw
goes in, the one that its receiver sent must come out.
"""

from checksums import giving
from lab import IPV4, IPV6, PLAIN, TAGS, Raw, ether, ip, packet, plus
from scapy.layers.inet import ICMP, IPOption_Router_Alert
from scapy.layers.inet6 import (ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6ParamProblem,
                                ICMPv6TimeExceeded)

KINDS = {
    4: (
        ("fragmentation needed", ICMP(type=3, code=4, nexthopmtu=1400)),
        ("host unreachable", ICMP(type=3, code=1)),
        ("port unreachable", ICMP(type=3, code=3)),
        ("time exceeded", ICMP(type=11, code=0)),
        ("parameter problem", ICMP(type=12, code=0, ptr=8)),
    ),
    6: (
        ("no route", ICMPv6DestUnreach(code=0)),
        ("port unreachable", ICMPv6DestUnreach(code=4)),
        ("packet too big", ICMPv6PacketTooBig(mtu=1280)),
        ("time exceeded", ICMPv6TimeExceeded(code=0)),
        ("parameter problem", ICMPv6ParamProblem(code=1, ptr=6)),
    ),
}
# Bytes of the quoted packet's transport part: the least there is, to beside the
# TCP checksum, with it, and with some of the payload.
QUOTED = (8, 16, 17, 18, 20, 28, 29)
HALF_A_CHECKSUM = 17
# As its sender saw it: some hops later.
SEEN = PLAIN.but(ttl=57, payload=b"0123456789abcdef")


def router(family):
    return "192.0.2.254" if family == 4 else "2001:db8:ffff::fe"


def cases(lab):
    for service in lab.four:
        for name, kind in KINDS[service.family]:
            for way in (Inside, Outside):
                yield from either_sender(lab, service, name, kind, way)
        for way in (Inside, Outside):
            yield from quotes(lab, service, way)
            yield from shapes(lab, service, way)
            yield from hosts(lab, service, way)
            yield from checksums(lab, service, way)
    for service in lab.services:
        if service.action == "REDIRECT":
            case = lab.case("an error towards a backend elsewhere", service).established()
            yield Outside(case).sends(KINDS[service.family][0][1])
            case = lab.case("an error from a backend elsewhere", service).established()
            yield Inside(case).sends(KINDS[service.family][0][1])


class Way:
    """Errors of one direction; `before` is what arrives here, `after` what
    leaves."""

    def __init__(self, case):
        self.case = case
        self.family = case.service.family

    def quote(self, ends, shape, length):
        service = self.case.service
        built = packet(service.family, service.protocol, ends, shape)
        header = (20 if self.family == 4 else 40) + 4 * len(shape.options)
        return bytes(built)[:header + length]

    def frame(self, macs, source, destination, kind, inner, shape, error=0):
        ends = self.case.to_vip.__class__(source, 0, destination, 0)
        inside = ip(self.family, ends, shape) / kind.copy() / Raw(inner)
        if error:
            layer = kind.__class__
            field = "chksum" if self.family == 4 else "cksum"
            right = getattr(inside.__class__(bytes(inside))[layer], field)
            setattr(inside[layer], field, plus(right, error))
        ethertype = IPV4 if self.family == 4 else IPV6
        return bytes(ether(macs, shape.tags, ethertype) / inside) + shape.pad

    def sends(self, kind, by=None, length=28, outer=PLAIN, seen=SEEN, error=0, after=b""):
        """`by` is a router's address, else the end itself sends."""
        seen = seen if seen.fields else seen.but(fields=self.fields())
        before = self.quote(self.inner_before(), seen, length)
        becomes = self.quote(self.inner_after(), seen, length)
        if length == HALF_A_CHECKSUM and self.case.service.protocol == "tcp":
            # What its other half would have been nobody knows: it stays.
            becomes = becomes[:-1] + before[-1:]
        arrives = self.frame(*self.before(by), kind, before + after, outer, error)
        leaves = self.frame(*self.after(by), kind, becomes + after,
                            outer.but(ttl=outer.ttl - 1), error)
        self.case.step(arrives, self.action(), leaves, "icmp_error")
        return self.case

    def arrives(self, kind, reason, length=28, outer=PLAIN, seen=SEEN, by=None):
        """To the host, untouched."""
        seen = seen if seen.fields else seen.but(fields=self.fields())
        inner = self.quote(self.inner_before(), seen, length)
        return self.case.passes(self.frame(*self.before(by), kind, inner, outer), reason)


class Inside(Way):
    """About a packet to the backend, by the backend or a router before it: to
    the client, who knows the VIP only."""

    name = "about a packet to the backend"

    def fields(self):
        return self.case.says()

    def action(self):
        return "TX"

    def inner_before(self):
        return self.case.to_backend

    def inner_after(self):
        return self.case.to_vip

    def before(self, by):
        case = self.case
        return case.macs_from_backend, by or case.service.backend, case.client

    def after(self, by):
        case = self.case
        return case.macs_reply, by or case.service.vip, case.client


class Outside(Way):
    """About a packet to the client, by the client or a router before it: to
    the backend, which sent from its own address."""

    name = "about a packet to the client"

    def fields(self):
        return self.case.answers()

    def action(self):
        return self.case.service.action

    def inner_before(self):
        return self.case.to_vip.back

    def inner_after(self):
        return self.case.to_backend.back

    def before(self, by):
        case = self.case
        return case.macs_in, by or case.client, case.service.vip

    def after(self, by):
        case = self.case
        return case.macs_to_backend, by or case.client, case.service.backend


def either_sender(lab, service, name, kind, way):
    case = lab.case(f"{name}, {way.name}", service).established()
    way(case).sends(kind)
    yield way(case).sends(kind, by=router(service.family))


def quotes(lab, service, way):
    kind = KINDS[service.family][0][1]
    for length in QUOTED:
        case = lab.case(f"{length} quoted bytes, {way.name}", service).established()
        yield way(case).sends(kind, length=length, by=router(service.family))

    case = lab.case(f"an odd length after the quoted packet, {way.name}", service).established()
    way(case).sends(kind, length=28, after=b"\0" * 100 + b"\x20\0\0")
    yield way(case).sends(kind, length=24, after=b"\xff")

    case = lab.case(f"of a quoted first packet, {way.name}", service).open()
    yield way(case).sends(kind, seen=SEEN.but(payload=b"", fields=case.opening()), length=8)

    if service.family == 4:
        case = lab.case(f"options in the quoted packet, {way.name}", service).established()
        seen = SEEN.but(options=(IPOption_Router_Alert(),) * 2)
        yield way(case).sends(kind, seen=seen, length=8)


def shapes(lab, service, way):
    kind = KINDS[service.family][0][1]
    for tag, tags in TAGS:
        case = lab.case(f"an error, {tag}, {way.name}", service).established()
        way(case).sends(kind, outer=PLAIN.but(tags=tags))
        yield way(case).sends(kind, outer=PLAIN.but(tags=tags), by=router(service.family))

    # It is not the quoted packet's, though a checksum would stand there.
    case = lab.case(f"noise after the error, {way.name}", service).established()
    for length in (7, 10, 40):
        way(case).sends(kind, length=8, outer=PLAIN.but(pad=b"\x5a" * length))
    yield case

    case = lab.case(f"a long error, {way.name}", service).established()
    seen = SEEN.but(payload=bytes(range(256)) * 4)
    yield way(case).sends(kind, seen=seen, length=8 + 1024)

    case = lab.case(f"an error with TTL 2, {way.name}", service).established()
    yield way(case).sends(kind, outer=PLAIN.but(ttl=2))

    # A flow goes on as if nothing had been.
    case = lab.case(f"a flow after an error, {way.name}", service).established()
    way(case).sends(kind)
    case.forward("pinned", PLAIN.but(fields=case.says()))
    case.reply(PLAIN.but(fields=case.answers()))
    yield way(case).sends(kind)

    if service.family == 4:
        case = lab.case(f"an error with options, {way.name}", service).established()
        yield way(case).sends(kind, outer=PLAIN.but(options=(IPOption_Router_Alert(),)))


def hosts(lab, service, way):
    kind = KINDS[service.family][0][1]
    case = lab.case(f"an error of no flow, {way.name}", service)
    way(case).arrives(kind, "no_pin")
    yield way(case).arrives(kind, "no_pin", by=router(service.family))

    case = lab.case(f"an error with TTL 1, {way.name}", service).established()
    yield way(case).arrives(kind, "ttl_expired", outer=PLAIN.but(ttl=1))

    case = lab.case(f"informational, {way.name}", service).established()
    others = {
        4: (ICMP(type=4), ICMP(type=5, gw="192.0.2.1"), ICMP(type=0), ICMP(type=13)),
        6: (ICMPv6DestUnreach(type=100), ICMPv6DestUnreach(type=129),
            ICMPv6DestUnreach(type=137), ICMPv6DestUnreach(type=127)),
    }
    for other in others[service.family]:
        way(case).arrives(other, "not_tcp_udp")
    yield case


def checksums(lab, service, way):
    kind = KINDS[service.family][0][1]
    case = lab.case(f"an error with a wrong checksum, {way.name}", service).established()
    for error in (0x0001, 0x5A5A):
        way(case).sends(kind, error=error)
        way(case).sends(kind, error=error, length=8, by=router(service.family))
    yield case

    case = lab.case(f"a quoted wrong checksum, {way.name}", service).established()
    yield way(case).sends(kind, seen=SEEN.but(error=0x0101))

    if service.protocol == "udp":
        case = lab.case(f"a quoted datagram without checksum, {way.name}", service).established()
        seen = SEEN.but(fields={"chksum": 0})
        way(case).sends(kind, seen=seen)
        yield way(case).sends(kind, seen=seen, length=8)

        # RFC 768's other zero, where the update comes out as nothing.
        case = lab.case(f"a quoted checksum that becomes zero, {way.name}", service)
        case.established()
        seen = giving(case, way(case).inner_after(), SEEN, 0)
        way(case).sends(kind, seen=seen)
        yield way(case).sends(kind, seen=seen, length=8)
