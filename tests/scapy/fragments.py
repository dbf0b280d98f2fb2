"""Fragments: the first by its ports, the later ones after it."""

from lab import IPV4, IPV6, PLAIN, TAGS, Raw, ether, ip, packet
from scapy.layers.inet import IPOption_Router_Alert
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN

# Bytes of the transport header and payload in each fragment.
CUTS = (64, 48)
HOPS = IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])
DESTINATION = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])


def cases(lab):
    for service in lab.four:
        yield from both_ways(lab, service)
        yield from unknown(lab, service)
        yield from hosts(lab, service)
        yield from shapes(lab, service)
        if service.protocol == "udp":
            yield from datagrams(lab, service)
    for service in lab.services:
        if service.action == "REDIRECT":
            case = lab.case("fragments, redirected", service).established()
            yield forward(case, "pinned", PLAIN, 21)


def payload(length):
    return bytes(i * 11 + 5 & 0xFF for i in range(length))


def segment(case, ends, shape):
    """The whole transport part, checksummed by Scapy over the whole packet."""
    service = case.service
    whole = packet(service.family, service.protocol, ends, shape.but(options=(), extensions=()))
    return bytes(whole.payload)


def piece(case, macs, ends, shape, number, at, data, more, protocol=None):
    """One fragment. `at` is its offset in bytes."""
    service = case.service
    protocol = protocol or service.number
    if service.family == 4:
        header = ip(4, ends, shape, id=number, flags="MF" if more else 0, frag=at // 8,
                    proto=protocol)
        inside = header / Raw(data)
    else:
        header = ip(6, ends, shape)
        fragment = IPv6ExtHdrFragment(id=number, m=int(more), offset=at // 8, nh=protocol)
        inside = header / fragment / Raw(data)
    frame = ether(macs, shape.tags, IPV4 if service.family == 4 else IPV6) / inside
    return bytes(frame) + shape.pad


def pieces(case, macs, ends, shape, number, cuts=CUTS):
    """All fragments of one packet, in order."""
    whole = segment(case, ends, shape)
    frames, at = [], 0
    for cut in cuts:
        frames.append(piece(case, macs, ends, shape, number, at, whole[at:at + cut], True))
        at += cut
    frames.append(piece(case, macs, ends, shape, number, at, whole[at:], False))
    return frames


def long(shape):
    return shape.but(payload=payload(201)) if shape.payload == PLAIN.payload else shape


def towards(case, shape, number, **how):
    """The client's fragments, and what the backend must get."""
    shape = long(shape)
    arrive = pieces(case, case.macs_in, case.to_vip, shape, number, **how)
    leave = pieces(case, case.macs_to_backend, case.to_backend, shape.but(ttl=shape.ttl - 1),
                   number, **how)
    return list(zip(arrive, leave))


def back(case, shape, number, **how):
    shape = long(shape)
    arrive = pieces(case, case.macs_from_backend, case.to_backend.back, shape, number, **how)
    leave = pieces(case, case.macs_reply, case.to_vip.back, shape.but(ttl=shape.ttl - 1),
                   number, **how)
    return list(zip(arrive, leave))


def forward(case, reason, shape, number, order=None, **how):
    fields = shape.fields or (case.opening() if reason == "new_flow" else case.says())
    pairs = towards(case, shape.but(fields=fields), number, **how)
    for i in order or range(len(pairs)):
        case.step(pairs[i][0], case.service.action, pairs[i][1], "fragment" if i else reason)
    return case


def reply(case, shape, number, order=None, **how):
    fields = shape.fields or case.answers()
    pairs = back(case, shape.but(fields=fields), number, **how)
    for i in order or range(len(pairs)):
        case.step(pairs[i][0], "TX", pairs[i][1], "fragment" if i else "reply")
    return case


def both_ways(lab, service):
    case = lab.case("fragments both ways", service).established()
    forward(case, "pinned", PLAIN, 1)
    reply(case, PLAIN, 2)
    # The same number the other way is another packet.
    reply(case, PLAIN, 1)
    yield forward(case, "pinned", PLAIN, 3)

    case = lab.case("later fragments in any order", service).established()
    forward(case, "pinned", PLAIN, 1, order=(0, 2, 1))
    forward(case, "pinned", PLAIN, 2, order=(0, 2, 2, 1, 1))
    yield reply(case, PLAIN, 1, order=(0, 2, 1, 1))

    case = lab.case("two packets' fragments in turns", service).established()
    shape = long(PLAIN.but(fields=case.says()))
    one, two = towards(case, shape, 100), towards(case, shape.but(payload=payload(180)), 101)
    for reason, i in (("pinned", 0), ("fragment", 1), ("fragment", 2)):
        case.step(one[i][0], "TX", one[i][1], reason)
        case.step(two[i][0], "TX", two[i][1], reason)
    yield case

    case = lab.case("whole packets between fragments", service).established()
    pairs = towards(case, shape, 7)
    case.step(pairs[0][0], "TX", pairs[0][1], "pinned")
    case.forward("pinned", PLAIN.but(fields=case.says()))
    case.step(pairs[1][0], "TX", pairs[1][1], "fragment")
    case.reply(PLAIN.but(fields=case.answers()))
    yield case.step(pairs[2][0], "TX", pairs[2][1], "fragment")

    case = lab.case("a number used again", service).established()
    forward(case, "pinned", PLAIN, 5)
    yield forward(case, "pinned", PLAIN.but(payload=payload(150)), 5)


def unknown(lab, service):
    """Later fragments of nobody: untouched."""
    case = lab.case("the last fragment comes first", service).established()
    pairs = towards(case, PLAIN.but(fields=case.says()), 9)
    case.passes(pairs[2][0], "fragment_unknown")
    case.passes(pairs[1][0], "fragment_unknown")
    yield forward(case, "pinned", PLAIN, 9)

    case = lab.case("the first fragment is lost on the way back", service).established()
    for frame, _ in back(case, PLAIN.but(fields=case.answers()), 9)[1:]:
        case.passes(frame, "fragment_unknown")
    yield reply(case, PLAIN, 9)

    case = lab.case("later fragments that match in all but one", service).established()
    forward(case, "pinned", PLAIN, 30, order=(0,))
    data, ends = payload(40), case.to_vip
    beside = ends.__class__(ends.source, ends.sport, case.service.backend, ends.dport)
    for aim, number, protocol in (
        (ends, 31, None),
        (beside, 30, None),
        (ends, 30, 6 if service.protocol == "udp" else 17),
    ):
        frame = piece(case, case.macs_in, aim, PLAIN, number, 64, data, False, protocol)
        case.passes(frame, "fragment_unknown")
    yield forward(case, "pinned", PLAIN, 30, order=(1, 2))

    case = lab.case("fragments that are not ours", service)
    pairs = pieces(case, case.macs_in, case.to_backend, long(PLAIN), 9)
    case.passes(pairs[0], "not_ours")
    yield case.passes(pairs[1], "fragment_unknown")

    case = lab.case("fragments from a backend, of no flow", service)
    frames = pieces(case, case.macs_from_backend, case.to_backend.back, long(PLAIN), 9)
    case.passes(frames[0], "no_pin")
    yield case.passes(frames[1], "fragment_unknown")


def hosts(lab, service):
    case = lab.case("a first fragment without its ports", service).established()
    length = 16 if service.protocol == "tcp" else 0
    whole = segment(case, case.to_vip, PLAIN.but(fields=case.says()))
    frame = piece(case, case.macs_in, case.to_vip, PLAIN, 40, 0, whole[:length], True)
    case.passes(frame, "truncated")
    frame = piece(case, case.macs_in, case.to_vip, PLAIN, 40, 24, whole[24:], False)
    yield case.passes(frame, "fragment_unknown")

    case = lab.case("TTL 1 of a fragment, first and later", service).established()
    first = towards(case, PLAIN.but(ttl=1, fields=case.says()), 50)
    case.passes(first[0][0], "ttl_expired")
    case.passes(first[1][0], "fragment_unknown")
    forward(case, "pinned", PLAIN, 51, order=(0,))
    later = towards(case, PLAIN.but(ttl=1, fields=case.says()), 51)
    case.passes(later[1][0], "ttl_expired")
    yield forward(case, "pinned", PLAIN, 51, order=(2,))

    case = lab.case("fragments cut by the frame's end", service)
    frame = towards(case, PLAIN, 52)[1][0]
    header = 34 if service.family == 4 else 62
    for kept in (header - 1, 20):
        case.passes(frame[:kept], "truncated")
    yield case


def shapes(lab, service):
    yield forward(lab.case("a first packet in fragments", service), "new_flow",
                  PLAIN.but(payload=payload(201)), 60)
    case = lab.case("first fragment of the smallest size", service).established()
    smallest = 24 if service.protocol == "tcp" else 8
    forward(case, "pinned", PLAIN, 61, cuts=(smallest, 8))
    yield reply(case, PLAIN, 61, cuts=(smallest, 8))

    for kind, tags in TAGS:
        case = lab.case(f"fragments, {kind}", service).established()
        forward(case, "pinned", PLAIN.but(tags=tags), 62)
        yield reply(case, PLAIN.but(tags=tags), 62)

    case = lab.case("fragments with noise after them", service).established()
    forward(case, "pinned", PLAIN.but(pad=b"\xa5" * 9), 63)
    yield reply(case, PLAIN.but(pad=b"\xa5"), 63)

    case = lab.case("fragments with a wrong checksum", service).established()
    forward(case, "pinned", PLAIN.but(error=0x0F0F), 64)
    yield reply(case, PLAIN.but(error=0x0F0F), 64)

    case = lab.case("large fragments", service).established()
    shape = PLAIN.but(payload=payload(9000))
    yield forward(case, "pinned", shape, 65, cuts=(4400, 4400))

    case = lab.case("the highest number and offset", service).established()
    number = 0xFFFF if service.family == 4 else 0xFFFFFFFF
    forward(case, "pinned", PLAIN, number, order=(0,))
    data = payload(7)
    frames = (
        piece(case, macs, ends, PLAIN.but(ttl=ttl), number, 65_528, data, False)
        for macs, ends, ttl in (
            (case.macs_in, case.to_vip, 64),
            (case.macs_to_backend, case.to_backend, 63),
        )
    )
    yield case.step(next(frames), "TX", next(frames), "fragment")

    if service.family == 4:
        for kind, tags in (("untagged", ()), *TAGS):
            case = lab.case(f"fragments with options, {kind}", service).established()
            shape = PLAIN.but(options=(IPOption_Router_Alert(),), tags=tags)
            forward(case, "pinned", shape, 66)
            yield reply(case, shape, 66)
    else:
        for kind, tags in (("untagged", ()), *TAGS):
            case = lab.case(f"fragments after other headers, {kind}", service).established()
            shape = PLAIN.but(extensions=(HOPS, DESTINATION), tags=tags)
            forward(case, "pinned", shape, 67)
            yield reply(case, shape, 67)


def datagrams(lab, service):
    case = lab.case("fragments without a checksum", service).established()
    shape = PLAIN.but(fields={"chksum": 0})
    forward(case, "pinned", shape, 70)
    yield reply(case, shape, 70)
