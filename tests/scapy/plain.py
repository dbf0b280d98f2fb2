"""Plain TCP and UDP both ways: payloads, padding, TTL, the life of a flow."""

from lab import ACK, FIN, PLAIN, PUSH, RST

# Empty, odd, even, around a full frame, and more than a page.
LENGTHS = (0, 1, 2, 3, 17, 255, 1400, 1401, 8900)


def cases(lab):
    for service in lab.four:
        yield from payloads(lab, service)
        yield from padding(lab, service)
        yield from hops(lab, service)
        yield both_ways(lab, service)
    yield from redirected(lab)
    for family in (4, 6):
        yield from tcp_lives(lab, lab.find(family, "tcp"))


def pattern(length):
    return bytes(i * 7 + 3 & 0xFF for i in range(length))


def payloads(lab, service):
    for length in LENGTHS:
        case = lab.case(f"payload of {length} bytes", service)
        case.established(PLAIN.but(payload=pattern(length)))
        case.forward("pinned", PLAIN.but(payload=pattern(length), fields=case.says()))
        yield case.reply(PLAIN.but(payload=pattern(length), fields=case.answers()))


def padding(lab, service):
    """What follows the IP packet is nobody's: a short frame is filled up to 60
    bytes, some switches leave more."""
    for name, pad in (
        ("zeroes after the packet", bytes(6)),
        ("one byte after the packet", b"\x01"),
        ("noise after the packet", pattern(46)),
    ):
        case = lab.case(name, service)
        case.open(PLAIN.but(payload=b"", pad=pad))
        case.reply(PLAIN.but(payload=b"", pad=pad, fields=case.first_answer()))
        case.forward("pinned", PLAIN.but(payload=b"", pad=pad, fields=case.says(ACK)))
        yield case.reply(PLAIN.but(payload=b"x", pad=pad, fields=case.answers()))


def hops(lab, service):
    for ttl in (2, 255):
        case = lab.case(f"TTL {ttl}", service)
        case.established(PLAIN.but(ttl=ttl))
        yield case.reply(PLAIN.but(ttl=ttl, fields=case.answers()))
    for ttl in (0, 1):
        first = lab.case(f"TTL {ttl} of a first packet", service)
        shape = PLAIN.but(ttl=ttl, fields=first.opening())
        yield first.passes(first.frame(first.macs_in, first.to_vip, shape), "ttl_expired")
        later = lab.case(f"TTL {ttl} of a pinned flow, both ways", service).established()
        shape = PLAIN.but(ttl=ttl, fields=later.says())
        later.passes(later.frame(later.macs_in, later.to_vip, shape), "ttl_expired")
        shape = PLAIN.but(ttl=ttl, fields=later.answers())
        frame = later.frame(later.macs_from_backend, later.to_backend.back, shape)
        yield later.passes(frame, "ttl_expired")


def both_ways(lab, service):
    """Many packets, each way several in a row."""
    case = lab.case("a conversation", service).established()
    for turn in range(4):
        for part in range(3):
            payload = pattern(turn * 100 + part)
            case.forward("pinned", PLAIN.but(payload=payload, fields=case.says()))
        for part in range(3):
            payload = pattern(turn * 200 + part)
            case.reply(PLAIN.but(payload=payload, fields=case.answers()))
    return case


def redirected(lab):
    """To another interface than the one it came in by, and back."""
    for service in lab.services:
        if service.action != "REDIRECT":
            continue
        case = lab.case("redirected, and back", service).established()
        case.forward("pinned", PLAIN.but(fields=case.says()))
        yield case.reply(PLAIN.but(fields=case.answers()))


def tcp_lives(lab, service):
    empty = PLAIN.but(payload=b"")

    case = lab.case("FIN by the client first", service).established()
    case.forward("pinned", empty.but(fields=case.says(FIN + ACK)))
    case.reply(empty.but(fields=case.answers(ACK)))
    case.reply(empty.but(fields=case.answers(FIN + ACK)))
    yield case.forward("pinned", empty.but(fields=case.says(ACK)))

    case = lab.case("FIN by the backend first", service).established()
    case.reply(PLAIN.but(fields=case.answers(FIN + PUSH)))
    case.forward("pinned", empty.but(fields=case.says(FIN + ACK)))
    yield case.reply(empty.but(fields=case.answers(ACK)))

    case = lab.case("refused", service).open()
    refusal = {"flags": RST + ACK, "seq": 0, "ack": 1001}
    yield case.reply(empty.but(fields=refusal))

    case = lab.case("RST by the client, its port used again", service).established()
    case.forward("pinned", empty.but(fields=case.says(RST)))
    again = case.opening() | {"seq": 77_000_000}
    case.forward("new_flow", empty.but(fields=again))
    yield case.reply(empty.but(fields={"flags": "SA", "seq": 5, "ack": 77_000_001}))

    case = lab.case("SYN seen again", service).open()
    case.forward("pinned", empty.but(fields=case.opening()))
    yield case.reply(empty.but(fields=case.first_answer()))

    case = lab.case("first seen in the middle", service)
    case.forward("midstream", PLAIN.but(fields=case.says()))
    case.reply(PLAIN.but(fields=case.answers()))
    yield case.forward("pinned", PLAIN.but(fields=case.says()))

    case = lab.case("a RST of no flow is forwarded, not pinned", service)
    case.forward("unpinned", empty.but(fields=case.says(RST)))
    shape = empty.but(fields=case.answers(ACK))
    frame = case.frame(case.macs_from_backend, case.to_backend.back, shape)
    yield case.passes(frame, "no_pin")

    case = lab.case("every option and flag of TCP is kept", service).established()
    options = [("NOP", None), ("NOP", None), ("Timestamp", (123_456, 654_321)),
               ("NOP", None), ("NOP", None), ("SAck", (9001, 9500, 9600, 9700))]
    fields = {"options": options, "urgptr": 3, "flags": "APUEC", "window": 1}
    case.forward("pinned", PLAIN.but(fields=case.says() | fields))
    yield case.reply(PLAIN.but(fields=case.answers() | fields))
