"""Checksums that are wrong, absent, or come out as a special number."""

from lab import ACK, IP, PLAIN, TCP, UDP, ether, packet, plus

# Each bit, and all of them but one.
ERRORS = (0x0001, 0x0100, 0x8000, 0x5A5A, 0xFFFE)

# Zero and its neighbours, where carries meet, in either byte order: sums may be
# kept in the machine's.
SPECIAL = (0x0000, 0x0001, 0x0100, 0xFEFF, 0xFFFE)


def cases(lab):
    for service in lab.four:
        yield from wrong(lab, service)
        yield from special(lab, service)
        if service.protocol == "udp":
            yield absent(lab, service)
        if service.family == 4:
            yield from wrong_header(lab, service)
            yield from special_header(lab, service)


def wrong(lab, service):
    """A bad checksum stays bad, by the same difference."""
    for error in ERRORS:
        case = lab.case(f"checksum wrong by {error:#06x}", service).established()
        case.forward("pinned", PLAIN.but(fields=case.says(), error=error))
        yield case.reply(PLAIN.but(fields=case.answers(), error=error))


def layer_of(service):
    return TCP if service.protocol == "tcp" else UDP


def checksum_of(case, ends, shape):
    service = case.service
    built = packet(service.family, service.protocol, ends, shape)
    return built.__class__(bytes(built))[layer_of(service)].chksum


def giving(case, ends, shape, wanted):
    """The payload that makes Scapy compute `wanted`: a checksum is the sum's
    complement, so raising the sum by (checksum - wanted) is all it takes."""
    word = plus(checksum_of(case, ends, shape.but(payload=b"\0\0xyz")), ~wanted & 0xFFFF)
    payload = word.to_bytes(2, "big") + b"xyz"
    found = checksum_of(case, ends, shape.but(payload=payload))
    # UDP has no zero: it is written as its other form.
    assert found == (wanted or (0xFFFF if case.service.protocol == "udp" else 0)), hex(found)
    return shape.but(payload=payload)


def special(lab, service):
    """Zero before or after, in each direction. UDP writes it as 0xffff; TCP as
    it is."""
    for wanted in SPECIAL:
        into = lab.case(f"checksum that becomes {wanted:#06x}", service).established()
        shape = PLAIN.but(fields=into.says())
        into.forward("pinned", giving(into, into.to_backend, shape.but(ttl=63), wanted)
                     .but(ttl=64))
        shape = PLAIN.but(fields=into.answers())
        yield into.reply(giving(into, into.to_vip.back, shape, wanted))

        out_of = lab.case(f"checksum that was {wanted:#06x}", service).established()
        shape = PLAIN.but(fields=out_of.says())
        out_of.forward("pinned", giving(out_of, out_of.to_vip, shape, wanted))
        shape = PLAIN.but(fields=out_of.answers())
        yield out_of.reply(giving(out_of, out_of.to_backend.back, shape, wanted))


def absent(lab, service):
    """Zero is no checksum (RFC 768; RFC 6935 for IPv6) and stays none."""
    case = lab.case("no checksum", service)
    for payload in (b"", b"odd", b"even"):
        shape = PLAIN.but(payload=payload, fields={"chksum": 0})
        case.forward("pinned" if case.steps else "new_flow", shape)
        case.reply(shape)
    return case


def header_frame(case, macs, ends, shape, error, **fields):
    built = packet(4, case.service.protocol, ends, shape)
    for name, value in fields.items():
        setattr(built, name, value)
    right = IP(bytes(built)).chksum
    built.chksum = plus(right, error) if error else right
    return bytes(ether(macs, (), 0x0800) / built)


def wrong_header(lab, service):
    """The same of IPv4's own checksum: a router may drop it, but we tell no
    lies about it."""
    for error in (0x0001, 0x1000, 0x7F7F):
        case = lab.case(f"header checksum wrong by {error:#06x}", service).established()
        shape = PLAIN.but(fields=case.says(ACK))
        case.step(
            header_frame(case, case.macs_in, case.to_vip, shape, error),
            "TX",
            header_frame(case, case.macs_to_backend, case.to_backend, shape.but(ttl=63), error),
            "pinned",
        )
        shape = PLAIN.but(fields=case.answers(ACK))
        yield case.step(
            header_frame(case, case.macs_from_backend, case.to_backend.back, shape, error),
            "TX",
            header_frame(case, case.macs_reply, case.to_vip.back, shape.but(ttl=63), error),
            "reply",
        )


def numbered(ends, shape, protocol, wanted):
    """The identification that gives the header this checksum."""
    built = packet(4, protocol, ends, shape)
    built.id = 0
    number = plus(IP(bytes(built)).chksum, ~wanted & 0xFFFF)
    built.id = number
    found = IP(bytes(built)).chksum
    assert found == wanted, hex(found)
    return number


def special_header(lab, service):
    """The same of IPv4's own checksum, by the packet's identification."""
    for wanted in SPECIAL:
        for name, after in (("becomes", True), ("was", False)):
            case = lab.case(f"header checksum that {name} {wanted:#06x}", service).established()
            for fields, reason, before, aim in (
                (case.says(ACK), "pinned", (case.macs_in, case.to_vip),
                 (case.macs_to_backend, case.to_backend)),
                (case.answers(ACK), "reply", (case.macs_from_backend, case.to_backend.back),
                 (case.macs_reply, case.to_vip.back)),
            ):
                shape = PLAIN.but(fields=fields)
                less = shape.but(ttl=63)
                (ends, ttl) = (aim[1], less) if after else (before[1], shape)
                number = numbered(ends, ttl, service.protocol, wanted)
                case.step(header_frame(case, *before, shape, 0, id=number), "TX",
                          header_frame(case, *aim, less, 0, id=number), reason)
            yield case
