//! Programs of the benchmark: never attached to anything but the benchmark's
//! own interfaces, and no part of the daemon's object.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

/// What a program that is measured is run by: it puts the next frame in place
/// of what the run before left of its own, and goes on with that program.
#[cfg(target_arch = "bpf")]
mod wrapper {
    use core::mem::offset_of;

    use aya_ebpf::{
        bindings::xdp_action::XDP_ABORTED,
        macros::{map, xdp},
        maps::{Array, ProgramArray},
        programs::XdpContext,
    };
    use canary_common::{EXCHANGE_FRAME, Exchange};
    use canary_ebpf::packet::{Header, Packet};
    use network_types::tcp::TcpHdr;

    /// The program that is measured.
    #[map]
    static MEASURED: ProgramArray = ProgramArray::with_max_entries(1, 0);

    /// What it gets. A wrapper runs on one CPU at a time: there is one object
    /// for each of the benchmark's threads.
    #[map]
    static EXCHANGE: Array<Exchange> = Array::with_max_entries(1, 0);

    /// Backends of flows, four to a word: see [`Exchange::listed`]. Size set at
    /// load, written by the benchmark.
    #[map]
    static BACKEND_OF: Array<u64> = Array::with_max_entries(1, 0);

    /// One frame for all flows, its headers only: the least that can be done.
    #[xdp(frags)]
    fn canary_draw_v4(ctx: XdpContext) -> u32 {
        go_on(&ctx, draw::<V4, 7, 56>(&ctx))
    }

    #[xdp(frags)]
    fn canary_draw_v6(ctx: XdpContext) -> u32 {
        go_on(&ctx, draw::<V6, 10, 80>(&ctx))
    }

    /// Frames in turns, with what data they have.
    #[xdp(frags)]
    fn canary_turns_v4(ctx: XdpContext) -> u32 {
        go_on(&ctx, turn::<V4>(&ctx))
    }

    #[xdp(frags)]
    fn canary_turns_v6(ctx: XdpContext) -> u32 {
        go_on(&ctx, turn::<V6>(&ctx))
    }

    #[inline(always)]
    fn go_on(ctx: &XdpContext, drawn: Option<()>) -> u32 {
        if drawn.is_some() {
            // SAFETY: the same kind of program, on its own context. It comes
            // back only where there is none.
            let _ = unsafe { MEASURED.tail_call(ctx, 0) };
        }
        XDP_ABORTED
    }

    /// Where a family has addresses and ports.
    trait Family {
        const TCP: usize;
        /// A frame's ends' last 32 bits of the address.
        fn set_source<const N: usize>(frame: Header<N>, address_be: u32);
        fn set_destination<const N: usize>(frame: Header<N>, address_be: u32);
        fn set_source_port<const N: usize>(frame: Header<N>, port_be: u16);
        fn set_destination_port<const N: usize>(frame: Header<N>, port_be: u16);
    }

    struct V4;
    struct V6;

    macro_rules! family {
        ($name:ident, $v6:literal, $source:literal, $destination:literal, $ports:literal) => {
            impl Family for $name {
                const TCP: usize = Exchange::tcp_at($v6);
                #[inline(always)]
                fn set_source<const N: usize>(frame: Header<N>, address_be: u32) {
                    frame.set::<u32, $source>(address_be);
                }
                #[inline(always)]
                fn set_destination<const N: usize>(frame: Header<N>, address_be: u32) {
                    frame.set::<u32, $destination>(address_be);
                }
                #[inline(always)]
                fn set_source_port<const N: usize>(frame: Header<N>, port_be: u16) {
                    frame.set::<u16, $ports>(port_be);
                }
                #[inline(always)]
                fn set_destination_port<const N: usize>(frame: Header<N>, port_be: u16) {
                    frame.set::<u16, { $ports + 2 }>(port_be);
                }
            }
        };
    }
    family!(V4, false, 26, 30, 34);
    family!(V6, true, 34, 50, 54);

    /// `WORDS` words are `BYTES` bytes.
    #[inline(always)]
    fn draw<F: Family, const WORDS: usize, const BYTES: usize>(ctx: &XdpContext) -> Option<()> {
        let (start, frame) = frame::<BYTES>(ctx)?;
        let exchange = exchange()?;
        let flow = exchange.draw();
        put::<WORDS>(start, &exchange.frames[0]);
        name_client::<F, BYTES>(frame, exchange.client(flow), exchange.to_client & 1 != 0);
        Some(())
    }

    #[inline(always)]
    fn turn<F: Family>(ctx: &XdpContext) -> Option<()> {
        let (start, frame) = frame::<EXCHANGE_FRAME>(ctx)?;
        let exchange = exchange()?;
        let turn = exchange.turn;
        let flow = if turn == 0 { exchange.draw() } else { exchange.flow };
        exchange.turn = if turn + 1 < exchange.turns { turn + 1 } else { 0 };
        let client = exchange.client(flow);
        let (draws_service, service) = (exchange.vip_mask != 0, exchange.service(flow));
        let (first, listed) = (exchange.backend, exchange.listed(flow));
        let to_client = exchange.to_client >> (turn & 31) & 1 != 0;
        let data = exchange.data;
        let [one, two, three] = &mut exchange.frames;
        let next = match turn {
            0 => one,
            1 => two,
            _ => three,
        };
        put::<{ EXCHANGE_FRAME / 8 }>(start, next);
        name_client::<F, EXCHANGE_FRAME>(frame, client, to_client);
        if to_client && first != 0 {
            let number = *BACKEND_OF.get(listed.0)? >> listed.1 & 0xffff;
            F::set_source(frame, first.wrapping_add(number as u32).to_be());
        } else if !to_client && draws_service {
            F::set_destination(frame, service.to_be());
        }
        if data != 0 {
            advance::<F>(next, data);
        }
        Some(())
    }

    #[inline(always)]
    fn frame<const BYTES: usize>(ctx: &XdpContext) -> Option<(usize, Header<BYTES>)> {
        let start = ctx.data();
        // SAFETY: the kernel's own bounds of the frame.
        let packet = unsafe { Packet::new(start, ctx.data_end()) };
        Some((start, packet.header::<BYTES>(0)?))
    }

    #[inline(always)]
    fn exchange() -> Option<&'static mut Exchange> {
        // SAFETY: the thread that runs the wrapper is all that uses the map.
        EXCHANGE.get_ptr_mut(0).map(|exchange| unsafe { &mut *exchange })
    }

    /// The caller has looked that the frame is as long.
    #[inline(always)]
    fn put<const WORDS: usize>(start: usize, frame: &[u64; EXCHANGE_FRAME / 8]) {
        for (i, word) in frame.iter().enumerate().take(WORDS) {
            // SAFETY: a frame's beginning, and within the packet. Volatile: of
            // a plain copy the compiler makes a call that goes byte by byte.
            unsafe { *(start as *mut u64).add(i) = core::ptr::read_volatile(word) };
        }
    }

    #[inline(always)]
    fn name_client<F: Family, const N: usize>(
        frame: Header<N>,
        (address, port): (u32, u16),
        to_client: bool,
    ) {
        if to_client {
            F::set_destination(frame, address.to_be());
            F::set_destination_port(frame, port.to_be());
        } else {
            F::set_source(frame, address.to_be());
            F::set_source_port(frame, port.to_be());
        }
    }

    /// Sequence and acknowledgement numbers of the same side's next frame.
    #[inline(always)]
    fn advance<F: Family>(frame: &mut [u64; EXCHANGE_FRAME / 8], data: u32) {
        for at in [F::TCP + offset_of!(TcpHdr, seq), F::TCP + offset_of!(TcpHdr, ack_seq)] {
            // SAFETY: within the frame, whose length is far above TCP + 20.
            unsafe {
                let number = frame.as_mut_ptr().cast::<u8>().add(at).cast::<u32>();
                let later = u32::from_be(number.read_unaligned()).wrapping_add(data);
                number.write_unaligned(later.to_be());
            }
        }
    }
}

/// What canary is measured beside: each does a part of what a splitter does,
/// with the same care.
#[cfg(target_arch = "bpf")]
mod rivals {
    use core::mem::offset_of;

    use aya_ebpf::{
        bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
        macros::{map, xdp},
        maps::{Array, LruHashMap},
        programs::XdpContext,
    };
    use canary_common::{NatTarget, PROTO_TCP};
    use canary_ebpf::{
        packet::{Header, Packet},
        rewrite::update_checksum,
    };
    use network_types::{eth::EthHdr, ip::Ipv4Hdr, tcp::TcpHdr};

    /// Flows of the program that looks them up, and where they go. Filled by
    /// [`canary_lru_fill`]; size set at load.
    #[map]
    static LRU: LruHashMap<FlowOfFive, u64> = LruHashMap::with_max_entries(1, 0);

    /// Packets that found no entry, or were no TCP over IPv4: in none of the
    /// benchmark's runs.
    #[map]
    static MISSES: Array<u64> = Array::with_max_entries(1, 0);

    /// Targets by hash, and what they are. Written by the benchmark.
    #[map]
    static NAT_SLOTS: Array<u32> = Array::with_max_entries(NAT_TABLE, 0);
    #[map]
    static NAT_TARGETS: Array<NatTarget> = Array::with_max_entries(16, 0);

    /// Slots of the NAT's table: a Maglev table's usual size.
    const NAT_TABLE: u32 = 65_537;

    /// Addresses, ports and protocol, padded.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct FlowOfFive {
        addresses: [u32; 2],
        ports: u32,
        protocol: u32,
    }

    /// TCP over IPv4, found with all the checks that a parser owes.
    struct Parsed {
        ethernet: Header<{ EthHdr::LEN }>,
        ip: Header<{ Ipv4Hdr::LEN }>,
        tcp: Header<{ TcpHdr::LEN }>,
    }

    #[xdp(frags)]
    fn canary_pass(_ctx: XdpContext) -> u32 {
        XDP_PASS
    }

    #[xdp(frags)]
    fn canary_drop(_ctx: XdpContext) -> u32 {
        XDP_DROP
    }

    /// What the others are measured against: parse, swap the MACs, send back.
    #[xdp(frags)]
    fn canary_swap(ctx: XdpContext) -> u32 {
        let Some(parsed) = parse(&ctx) else { return miss() };
        swap(&parsed)
    }

    /// The same with one look-up in a kernel's hash map.
    #[xdp(frags)]
    fn canary_lru(ctx: XdpContext) -> u32 {
        let Some(parsed) = parse(&ctx) else { return miss() };
        // SAFETY: a value of plain numbers, read once.
        match unsafe { LRU.get(&flow_of(&parsed)) } {
            Some(&target) if target != 0 => swap(&parsed),
            _ => miss(),
        }
    }

    #[xdp(frags)]
    fn canary_lru_fill(ctx: XdpContext) -> u32 {
        let Some(parsed) = parse(&ctx) else { return miss() };
        match LRU.insert(&flow_of(&parsed), &1, 0) {
            Ok(()) => XDP_TX,
            Err(_) => miss(),
        }
    }

    /// A balancer without state: a target by hash, address and port translated,
    /// both checksums kept right.
    #[xdp(frags)]
    fn canary_nat(ctx: XdpContext) -> u32 {
        let Some(parsed) = parse(&ctx) else { return miss() };
        let slot = (u64::from(hash(&flow_of(&parsed))) * u64::from(NAT_TABLE)) >> 32;
        let target = NAT_SLOTS.get(slot as u32).and_then(|&target| NAT_TARGETS.get(target));
        let Some(target) = target else { return miss() };
        translate(&parsed, target);
        XDP_TX
    }

    #[inline(always)]
    fn parse(ctx: &XdpContext) -> Option<Parsed> {
        const IPV4_BE: u16 = 0x0800_u16.to_be();
        const FRAGMENT_BE: u16 = 0x3fff_u16.to_be();
        let packet = Packet::of(ctx);
        let ethernet = packet.header::<{ EthHdr::LEN }>(0)?;
        if ethernet.get::<u16, { offset_of!(EthHdr, ether_type) }>() != IPV4_BE {
            return None;
        }
        let ip = packet.header::<{ Ipv4Hdr::LEN }>(EthHdr::LEN)?;
        let version_and_length = ip.get::<u8, { offset_of!(Ipv4Hdr, vihl) }>();
        let header_len = usize::from(version_and_length & 0xf) * 4;
        if version_and_length >> 4 != 4
            || header_len < Ipv4Hdr::LEN
            || ip.get::<u16, { offset_of!(Ipv4Hdr, frags) }>() & FRAGMENT_BE != 0
            || ip.get::<u8, { offset_of!(Ipv4Hdr, proto) }>() != PROTO_TCP
        {
            return None;
        }
        let tcp = packet.header::<{ TcpHdr::LEN }>(EthHdr::LEN + header_len)?;
        Some(Parsed { ethernet, ip, tcp })
    }

    #[inline(always)]
    fn flow_of(parsed: &Parsed) -> FlowOfFive {
        FlowOfFive {
            addresses: [
                parsed.ip.get::<u32, { offset_of!(Ipv4Hdr, src_addr) }>(),
                parsed.ip.get::<u32, { offset_of!(Ipv4Hdr, dst_addr) }>(),
            ],
            ports: parsed.tcp.get::<u32, 0>(),
            protocol: u32::from(PROTO_TCP),
        }
    }

    /// Multiplied and folded (`fmix64` of `MurmurHash3`, halved): a hash that
    /// who wants one at all would take.
    #[inline(always)]
    fn hash(flow: &FlowOfFive) -> u32 {
        const ODD: u64 = 0xff51_afd7_ed55_8ccd;
        let [source, destination] = flow.addresses.map(u64::from);
        let mut hash = (source << 32 | u64::from(flow.ports)) ^ destination << 16;
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(ODD);
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(ODD);
        (hash >> 32) as u32
    }

    #[inline(always)]
    fn swap(parsed: &Parsed) -> u32 {
        let frame = parsed.ethernet;
        let (to, from) = (frame.get::<[u16; 3], 0>(), frame.get::<[u16; 3], 6>());
        frame.set::<[u16; 3], 0>(from);
        frame.set::<[u16; 3], 6>(to);
        XDP_TX
    }

    #[inline(always)]
    fn translate(parsed: &Parsed, target: &NatTarget) {
        const CHECK: usize = offset_of!(Ipv4Hdr, check);
        const TCP_CHECK: usize = offset_of!(TcpHdr, check);
        const TTL: usize = offset_of!(Ipv4Hdr, ttl);
        /// What a TTL less by one adds to the sum.
        const TTL_DELTA: u16 = (!0x0100_u16).to_be();
        let Parsed { ethernet, ip, tcp } = parsed;
        let delta = u32::from(target.address_delta) + u32::from(TTL_DELTA);
        ip.set::<u16, CHECK>(update_checksum(ip.get::<u16, CHECK>(), delta));
        ip.set::<u8, TTL>(ip.get::<u8, TTL>().wrapping_sub(1));
        ip.set::<u32, { offset_of!(Ipv4Hdr, dst_addr) }>(target.address_be);
        let delta = u32::from(target.transport_delta);
        tcp.set::<u16, TCP_CHECK>(update_checksum(tcp.get::<u16, TCP_CHECK>(), delta));
        tcp.set::<u16, { offset_of!(TcpHdr, dest) }>(target.port_be);
        ethernet.set::<u32, 0>(target.frame.words[0]);
        ethernet.set::<u32, 4>(target.frame.words[1]);
        ethernet.set::<u32, 8>(target.frame.words[2]);
    }

    #[cold]
    fn miss() -> u32 {
        if let Some(misses) = MISSES.get_ptr_mut(0) {
            // SAFETY: a live map value; no run of the benchmark comes here.
            unsafe { *misses += 1 };
        }
        XDP_ABORTED
    }
}

#[cfg(target_arch = "bpf")]
canary_ebpf::object!();

#[cfg(not(target_arch = "bpf"))]
fn main() {}
