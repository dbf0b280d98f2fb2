//! The programs of canary's object.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::{xdp_action::XDP_PASS, xdp_md},
        helpers::bpf_get_prandom_u32,
        macros::xdp,
        programs::XdpContext,
    };
    use aya_log_ebpf::warn;
    use canary_common::Reason;
    use canary_ebpf::{
        counters, flows, fragments, icmp,
        layout::{self, Layout},
        maps::log_enabled,
        open::{self, Decided},
        orders::{self, Ordered},
        packet::Packet,
        parse::parse_whole_or_first,
        path::{self, Followed, Verdict},
        plain::{self, Datagram, Plain},
        unusual::Unusual,
        where_to,
    };

    /// One of so many rare events is logged.
    const LOG_SAMPLE: u32 = 16;

    /// The packet path, attached to every configured interface.
    #[xdp(frags)]
    fn canary(ctx: XdpContext) -> u32 {
        run(&ctx)
    }

    /// The same for kernels before 5.18, which know no multi-buffer frames.
    #[xdp]
    fn canary_linear(ctx: XdpContext) -> u32 {
        run(&ctx)
    }

    #[inline(always)]
    fn run(ctx: &XdpContext) -> u32 {
        let mut verdict = plainly(ctx.ctx);
        if verdict >= SYN {
            if verdict != OTHER {
                verdict = ours(ctx.ctx, verdict);
            }
            if verdict == OTHER {
                verdict = at_length(ctx.ctx);
            }
        }
        let reason = Reason::from_number(verdict >> 8);
        counters::reason(reason);
        if log_enabled() != 0 && rare(reason) {
            // SAFETY: no arguments, no preconditions.
            let random = unsafe { bpf_get_prandom_u32() };
            if random % LOG_SAMPLE == 0 {
                warn!(ctx, "packet left with reason {}", reason as u32);
            }
        }
        verdict & 0xff
    }

    /// A plain SYN, or a datagram.
    #[inline(always)]
    fn ours(ctx: *mut xdp_md, word: u32) -> u32 {
        if word & DATAGRAM == 0 {
            return newcomer(ctx, word);
        }
        let verdict = datagram(ctx, word);
        if verdict == OTHER && word & FROM_BACKEND == 0 {
            return first_datagram(ctx, word);
        }
        verdict
    }

    /// What is not plain, or became so.
    #[inline(always)]
    fn at_length(ctx: *mut xdp_md) -> u32 {
        let mut verdict = pinned(ctx);
        if verdict >= UNSETTLED {
            verdict = canary_settle(ctx, verdict);
        }
        if verdict == OPENS {
            let layout = layout::of(ctx);
            verdict = opening(ctx, layout.0, canary_decide(ctx, layout.0));
            if verdict == BORN {
                verdict = canary_settle(ctx, verdict);
            }
        }
        verdict
    }

    /// In place of a packed verdict: a plain SYN, with the service, and whether
    /// it came over IPv6.
    const SYN: u32 = 1 << 30;
    const V6: u32 = 1 << 16;
    /// The same of a datagram that is to the service; or from the backend of
    /// that number.
    const DATAGRAM: u32 = 1 << 17;
    const FROM_BACKEND: u32 = 1 << 18;
    /// The packet opens a flow.
    const OPENS: u32 = UNSETTLED - 1;
    /// From here on: what is for [`canary_settle`]. It is of a marked flow, from
    /// its backend: with the service, and whether the flow has had no 5xx yet.
    const UNSETTLED: u32 = ANSWERS;
    const ANSWERS: u32 = 1 << 31;
    const FIRST: u32 = 1 << 16;
    /// The same, from its client.
    const ASKS: u32 = u32::MAX;
    /// The same, and the flow was pinned for it.
    const BORN: u32 = u32::MAX - 1;
    /// It is not plain.
    const UNUSUAL: u32 = u32::MAX - 2;
    /// It was looked at and goes on like any other.
    const GOES_ON: u32 = u32::MAX - 3;
    /// Nothing was done yet.
    const OTHER: u32 = u32::MAX - 4;

    /// Action and reason in one word.
    #[inline(always)]
    fn pack(verdict: Result<Verdict, Reason>) -> u32 {
        match verdict {
            Ok(Verdict { action, reason }) => action | (reason as u32) << 8,
            Err(reason) => XDP_PASS | (reason as u32) << 8,
        }
    }

    #[inline(always)]
    fn pack_followed(followed: Result<Followed, Reason>) -> u32 {
        match followed {
            Ok(Followed::Out(verdict)) => pack(Ok(verdict)),
            Ok(Followed::Opens) => OPENS,
            Ok(Followed::Asks) => ASKS,
            Ok(Followed::Answers { service, first }) => {
                ANSWERS | FIRST * u32::from(first) | u32::from(service)
            }
            Err(reason) => pack(Err(reason)),
        }
    }

    /// See [`pinned`].
    #[inline(never)]
    fn plainly(ctx: *mut xdp_md) -> u32 {
        let ctx = XdpContext::new(ctx);
        let ingress = ctx.ingress_ifindex() as u32;
        match plain::follow(&Packet::of(&ctx), ingress) {
            Some(Plain::Out(verdict)) => pack(Ok(verdict)),
            Some(Plain::Opens { service, v6 }) => SYN | V6 * u32::from(v6) | u32::from(service),
            Some(Plain::Datagram(Datagram { number, from_backend, v6 })) => {
                let from_backend = FROM_BACKEND * u32::from(from_backend);
                SYN | DATAGRAM | from_backend | V6 * u32::from(v6) | u32::from(number)
            }
            None => OTHER,
        }
    }

    /// See [`pinned`].
    #[inline(never)]
    fn datagram(ctx: *mut xdp_md, word: u32) -> u32 {
        let ctx = XdpContext::new(ctx);
        let ingress = ctx.ingress_ifindex() as u32;
        let datagram = Datagram {
            number: word as u16,
            from_backend: word & FROM_BACKEND != 0,
            v6: word & V6 != 0,
        };
        match plain::datagram(&Packet::of(&ctx), datagram, ingress) {
            Some(verdict) => pack(Ok(verdict)),
            None => OTHER,
        }
    }

    /// See [`pinned`].
    #[inline(never)]
    fn first_datagram(ctx: *mut xdp_md, word: u32) -> u32 {
        let ctx = XdpContext::new(ctx);
        let ingress = ctx.ingress_ifindex() as u32;
        match plain::open_datagram(&Packet::of(&ctx), word as u16, word & V6 != 0, ingress) {
            Some(verdict) => pack(Ok(verdict)),
            None => OTHER,
        }
    }

    /// See [`pinned`].
    #[inline(never)]
    fn newcomer(ctx: *mut xdp_md, syn: u32) -> u32 {
        let ctx = XdpContext::new(ctx);
        let ingress = ctx.ingress_ifindex() as u32;
        match plain::open(&Packet::of(&ctx), syn as u16, syn & V6 != 0, ingress) {
            Some(verdict) => pack(Ok(verdict)),
            None => OTHER,
        }
    }

    /// Functions of their own: the verifier forgets the inside of one before
    /// it walks the other, and their stacks do not add up.
    #[inline(never)]
    fn pinned(ctx: *mut xdp_md) -> u32 {
        let ctx = XdpContext::new(ctx);
        match path::follow_pin(&Packet::of(&ctx), ctx.ingress_ifindex() as u32) {
            Err(Reason::NotIp | Reason::Fragment | Reason::NotTcpUdp) => UNUSUAL,
            followed => pack_followed(followed),
        }
    }

    /// What is not plain, and what is of a marked flow. Global, as
    /// [`canary_decide`]: walked once for its two callers.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn canary_settle(ctx: *mut xdp_md, verdict: u32) -> u32 {
        let layout = layout::of(ctx);
        let mut verdict = verdict;
        if verdict == UNUSUAL {
            verdict = match Unusual::of(layout) {
                Ok(Unusual::Packet) => canary_unusual(ctx, layout.0, 0),
                Ok(Unusual::LaterFragment) => later_fragment(ctx, layout.0),
                Ok(Unusual::IcmpError) => icmp_error(ctx, layout.0),
                Err(reason) => pack(Err(reason)),
            };
        }
        if verdict == ASKS || verdict == BORN {
            verdict = ordered(ctx, layout.0, u32::from(verdict == BORN));
        } else if verdict >= ANSWERS && verdict != GOES_ON {
            canary_failing(ctx, layout.0, verdict);
            verdict = GOES_ON;
        }
        if verdict == GOES_ON {
            verdict = canary_unusual(ctx, layout.0, 1);
        }
        verdict
    }

    /// See [`canary_settle`]. `settled` is 0 or 1.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn canary_unusual(ctx: *mut xdp_md, layout: u64, settled: u32) -> u32 {
        let ctx = XdpContext::new(ctx);
        let (packet, ingress) = (Packet::of(&ctx), ctx.ingress_ifindex() as u32);
        pack_followed(match parse_whole_or_first(&packet, Layout(layout)) {
            Ok(parsed) => path::follow_parsed(&packet, &parsed, ingress, settled != 0),
            Err(reason) => Err(reason),
        })
    }

    /// See [`pinned`].
    #[inline(never)]
    fn ordered(ctx: *mut xdp_md, layout: u64, born: u32) -> u32 {
        match orders::of_client(ctx, Layout(layout), born != 0) {
            Ok(Ordered::Out(verdict)) => pack(Ok(verdict)),
            Ok(Ordered::GoesOn) => GOES_ON,
            Ok(Ordered::Opens) => OPENS,
            Err(reason) => pack(Err(reason)),
        }
    }

    /// Global: see [`canary_decide`].
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn canary_failing(ctx: *mut xdp_md, layout: u64, verdict: u32) -> u32 {
        let packet = Packet::of(&XdpContext::new(ctx));
        let first = verdict & FIRST != 0;
        let failed = orders::of_backend(&packet, Layout(layout), verdict as u16, first);
        u32::from(failed.is_some())
    }

    /// See [`pinned`].
    #[inline(never)]
    fn later_fragment(ctx: *mut xdp_md, layout: u64) -> u32 {
        let ctx = XdpContext::new(ctx);
        let ingress = ctx.ingress_ifindex() as u32;
        pack(fragments::follow(&Packet::of(&ctx), Layout(layout), ingress))
    }

    /// See [`pinned`].
    #[inline(never)]
    fn icmp_error(ctx: *mut xdp_md, layout: u64) -> u32 {
        let ctx = XdpContext::new(ctx);
        let ingress = ctx.ingress_ifindex() as u32;
        pack(icmp::translate(&Packet::of(&ctx), Layout(layout), ingress))
    }

    /// Global: of a function of its own only, the compiler would pass on the
    /// packet's bounds instead of `ctx`, as numbers.
    #[unsafe(no_mangle)]
    #[inline(never)]
    extern "C" fn canary_decide(ctx: *mut xdp_md, layout: u64) -> u64 {
        open::decide(&Packet::of(&XdpContext::new(ctx)), Layout(layout)).0
    }

    /// See [`pinned`].
    #[inline(never)]
    fn opening(ctx: *mut xdp_md, layout: u64, decided: u64) -> u32 {
        let ctx = XdpContext::new(ctx);
        let ingress = ctx.ingress_ifindex() as u32;
        match open::open(&Packet::of(&ctx), Layout(layout), Decided(decided), ingress) {
            Ok(Some(verdict)) => pack(Ok(verdict)),
            Ok(None) => BORN,
            Err(reason) => pack(Err(reason)),
        }
    }

    #[inline(always)]
    fn rare(reason: Reason) -> bool {
        matches!(
            reason,
            Reason::Unpinned
                | Reason::NoBackend
                | Reason::Unresolved
                | Reason::Collision
                | Reason::NoInterface
                | Reason::Internal
        )
    }

    /// Test-run by the daemon for `canary where`; never attached.
    #[xdp]
    fn canary_where(ctx: XdpContext) -> u32 {
        match where_to::answer(&Packet::of(&ctx)) {
            Some(()) => XDP_PASS,
            None => 0,
        }
    }

    /// Test-run by the daemon: the tick counter that deadlines are written in,
    /// over the packet's first eight bytes.
    #[xdp]
    fn canary_clock(ctx: XdpContext) -> u32 {
        let Some(out) = Packet::of(&ctx).header::<8>(0) else { return 0 };
        out.set::<u64, 0>(flows::jiffies());
        XDP_PASS
    }

    canary_ebpf::object!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
