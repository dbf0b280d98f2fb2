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
        packet::Packet,
        parse::parse_whole_or_first,
        path::{self, Verdict},
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
        let mut verdict = pinned(ctx.ctx);
        if verdict == UNUSUAL || verdict == OPEN {
            let layout = layout::of(ctx.ctx);
            if verdict == UNUSUAL {
                verdict = match Unusual::of(layout) {
                    Ok(Unusual::Packet) => unusual(ctx.ctx, layout.0),
                    Ok(Unusual::LaterFragment) => later_fragment(ctx.ctx, layout.0),
                    Ok(Unusual::IcmpError) => icmp_error(ctx.ctx, layout.0),
                    Err(reason) => pack(Err(reason)),
                };
            }
            if verdict == OPEN {
                verdict = opening(ctx.ctx, layout.0, canary_decide(ctx.ctx, layout.0));
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

    /// In place of a packed verdict: the packet opens a flow.
    const OPEN: u32 = u32::MAX;
    /// The same: it is not plain.
    const UNUSUAL: u32 = u32::MAX - 1;

    /// Action and reason in one word.
    #[inline(always)]
    fn pack(verdict: Result<Verdict, Reason>) -> u32 {
        match verdict {
            Ok(Verdict { action, reason }) => action | (reason as u32) << 8,
            Err(reason) => XDP_PASS | (reason as u32) << 8,
        }
    }

    #[inline(always)]
    fn pack_or_open(followed: Result<Option<Verdict>, Reason>) -> u32 {
        match followed {
            Ok(None) => OPEN,
            Ok(Some(verdict)) => pack(Ok(verdict)),
            Err(reason) => pack(Err(reason)),
        }
    }

    /// Functions of their own: the verifier forgets the inside of one before
    /// it walks the other, and their stacks do not add up.
    #[inline(never)]
    fn pinned(ctx: *mut xdp_md) -> u32 {
        let ctx = XdpContext::new(ctx);
        match path::follow_pin(&Packet::of(&ctx), ctx.ingress_ifindex() as u32) {
            Err(Reason::NotIp | Reason::Fragment | Reason::NotTcpUdp) => UNUSUAL,
            followed => pack_or_open(followed),
        }
    }

    /// See [`pinned`].
    #[inline(never)]
    fn unusual(ctx: *mut xdp_md, layout: u64) -> u32 {
        let ctx = XdpContext::new(ctx);
        let (packet, ingress) = (Packet::of(&ctx), ctx.ingress_ifindex() as u32);
        pack_or_open(match parse_whole_or_first(&packet, Layout(layout)) {
            Ok(parsed) => path::follow_parsed(&packet, &parsed, ingress),
            Err(reason) => Err(reason),
        })
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
        pack(open::open(&Packet::of(&ctx), Layout(layout), Decided(decided), ingress))
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
