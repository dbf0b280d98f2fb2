"""What is nobody's flow: to the host, as it came."""

from lab import (ACK, IP, IPV4, IPV6, PLAIN, UDP, Ends, IPv6, Raw, ether, ip, packet,
                 ping)
from scapy.contrib.igmp import IGMP
from scapy.layers.inet6 import ICMPv6MLReport, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr
from scapy.layers.l2 import ARP, GRE, LLC, STP, Dot3, Ether
from scapy.layers.ntp import NTP
from scapy.layers.sctp import SCTP, SCTPChunkInit


def cases(lab):
    for service in lab.four:
        yield from not_ours(lab, service)
        yield from no_pin(lab, service)
        yield from broken(lab, service)
    for family in (4, 6):
        yield pings(lab, lab.find(family, "tcp"))
        yield from other_protocols(lab, lab.find(family, "udp"))
    yield from other_ethertypes(lab, lab.find(4, "tcp"))


def framed(case, inside):
    ethertype = IPV4 if case.service.family == 4 else IPV6
    return bytes(ether(case.macs_in, (), ethertype) / inside)


def inside(case, ends, shape=PLAIN):
    return packet(case.service.family, case.service.protocol, ends, shape)


def other_host(service):
    """One bit from the VIP's address."""
    return "203.0.113.11" if service.family == 4 else "2001:db8::11"


def not_ours(lab, service):
    vip, port = service.vip, service.vip_port
    for name, address, number in (
        ("another port of the VIP", vip, port + 1),
        ("port 0 of the VIP", vip, 0),
        ("the VIP's port, bytes swapped", vip, int.from_bytes(port.to_bytes(2, "little"), "big")),
        ("the address beside the VIP", other_host(service), port),
        ("straight to the backend", service.backend, service.backend_port),
    ):
        case = lab.case(name, service)
        ends = Ends(case.client, case.to_vip.sport, address, number)
        yield case.passes(framed(case, inside(case, ends)), "not_ours")

    # The same address and port by the other protocol is another service.
    case = lab.case("the other protocol", service)
    other = "udp" if service.protocol == "tcp" else "tcp"
    frame = framed(case, packet(service.family, other, case.to_vip, PLAIN))
    yield case.passes(frame, "not_ours")

    # The VIP is no source of a reply, and a client no source of a service.
    case = lab.case("from the VIP", service).established()
    yield case.passes(framed(case, inside(case, case.to_vip.back)), "not_ours")


def no_pin(lab, service):
    case = lab.case("a backend speaks first", service)
    shape = PLAIN.but(fields=case.answers(ACK))
    frame = case.frame(case.macs_from_backend, case.to_backend.back, shape)
    yield case.passes(frame, "no_pin")

    case = lab.case("a backend speaks to the port beside", service).established()
    ends = case.to_backend.back
    beside = Ends(ends.source, ends.sport, ends.destination, ends.dport + 1)
    frame = case.frame(case.macs_from_backend, beside, PLAIN.but(fields=case.answers()))
    case.passes(frame, "no_pin")
    yield case.reply(PLAIN.but(fields=case.answers()))

    case = lab.case("a backend speaks from the port beside", service).established()
    ends = case.to_backend.back
    beside = Ends(ends.source, ends.sport - 1, ends.destination, ends.dport)
    frame = case.frame(case.macs_from_backend, beside, PLAIN.but(fields=case.answers()))
    yield case.passes(frame, "not_ours")


def broken(lab, service):
    """Cut at each byte that matters, and headers that contradict themselves."""
    header = 20 if service.family == 4 else 40
    length = {"tcp": 20, "udp": 8}[service.protocol]
    for name, kept in (
        ("nothing of the IP header", 14),
        ("an IP header short of a byte", 14 + header - 1),
        ("nothing of the transport header", 14 + header),
        ("a transport header short of a byte", 14 + header + length - 1),
    ):
        case = lab.case(f"cut: {name}", service)
        whole = framed(case, inside(case, case.to_vip))
        yield case.passes(whole[:kept], "truncated")

    case = lab.case("a version that is not the EtherType's", service)
    other = 6 if service.family == 4 else 4
    built = inside(case, case.to_vip)
    built.version = other
    yield case.passes(framed(case, built), "malformed")

    if service.family == 4:
        for words in (0, 4):
            case = lab.case(f"a header of {words} words", service)
            built = inside(case, case.to_vip)
            built.ihl = words
            yield case.passes(framed(case, built), "malformed")
        case = lab.case("a header that is longer than the packet", service)
        built = inside(case, case.to_vip, PLAIN.but(payload=b""))
        built.ihl = 15
        yield case.passes(framed(case, built), "truncated")


def pings(lab, service):
    """So that the VIP answers."""
    case = lab.case("ping to the VIP", service)
    case.passes(framed(case, ping(service.family, case.to_vip)), "not_tcp_udp")
    return case.passes(framed(case, ping(service.family, case.to_vip.back)), "not_tcp_udp")


def other_protocols(lab, service):
    family = service.family
    protocols = [
        ("SCTP", SCTP(sport=80, dport=service.vip_port) / SCTPChunkInit(), 132),
        ("GRE", GRE() / IP(src="192.0.2.1", dst="192.0.2.2") / UDP() / NTP(), 47),
        ("UDP-Lite", Raw(bytes(UDP(sport=1, dport=service.vip_port))), 136),
        ("ESP", Raw(bytes(40)), 50),
        ("an unknown one", Raw(bytes(40)), 253),
    ]
    if family == 4:
        protocols += [
            ("IGMP", IGMP(type=0x16, gaddr="224.0.1.1"), 2),
            ("IP in IP", IP(src="192.0.2.1", dst=service.vip) / UDP(dport=service.vip_port), 4),
        ]
    else:
        neighbour = ICMPv6ND_NS(tgt=service.vip) / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:01")
        protocols += [
            ("neighbour solicitation", neighbour, 58),
            ("listener report", ICMPv6MLReport(mladdr="ff02::fb"), 58),
            ("IPv6 in IPv6", IPv6(src="fd00::1", dst=service.vip) / UDP(dport=53), 41),
            ("no next header", Raw(b""), 59),
        ]
    for name, inner, number in protocols:
        case = lab.case(name, service)
        fields = {"proto" if family == 4 else "nh": number}
        header = ip(family, case.to_vip, PLAIN, **fields)
        yield case.passes(framed(case, header / inner), "not_tcp_udp")


def other_ethertypes(lab, service):
    mac = "02:00:00:00:00:01"
    broadcast = "ff:ff:ff:ff:ff:ff"
    asks = ARP(op="who-has", hwsrc=mac, psrc="203.0.113.1", pdst=service.vip)
    answers = ARP(op="is-at", hwsrc=mac, psrc=service.backend, hwdst=mac, pdst="203.0.113.1")
    tree = LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP()
    looks_like = packet(4, "tcp", Ends("192.0.2.1", 1, service.vip, service.vip_port), PLAIN)
    for name, frame in (
        ("ARP asks for the VIP", Ether(dst=broadcast, src=mac) / asks),
        ("ARP answers", Ether(dst=mac, src=mac) / answers),
        ("ARP, filled up to 60 bytes", bytes(Ether(dst=broadcast, src=mac) / asks) + bytes(18)),
        ("spanning tree: a length, no EtherType", Dot3(dst="01:80:c2:00:00:00", src=mac) / tree),
        ("LLDP", Ether(dst="01:80:c2:00:00:0e", src=mac, type=0x88CC) / Raw(bytes(46))),
        ("MPLS over a packet to the VIP",
         Ether(dst=mac, src=mac, type=0x8847) / Raw(bytes([0, 0, 0x11, 64])) / looks_like),
        ("PPPoE", Ether(dst=mac, src=mac, type=0x8864) / Raw(bytes(46))),
        ("a packet to the VIP under IPv6's neighbour's EtherType",
         Ether(dst=mac, src=mac, type=0x86DE) / looks_like),
    ):
        yield lab.case(name, service).passes(frame, "not_ip")
