//! The programs of canary's object.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::xdp_action::XDP_PASS, helpers::bpf_get_prandom_u32, macros::xdp,
        programs::XdpContext,
    };
    use aya_log_ebpf::warn;
    use canary_common::Reason;
    use canary_ebpf::{
        counters, flows,
        maps::log_enabled,
        packet::Packet,
        path::{self, Verdict},
        where_to,
    };

    /// One of so many rare events is logged.
    const LOG_SAMPLE: u32 = 16;

    #[inline(always)]
    fn packet(ctx: &XdpContext) -> Packet {
        // SAFETY: the kernel's own bounds of the frame, valid for this run.
        unsafe { Packet::new(ctx.data(), ctx.data_end()) }
    }

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
        let Verdict { action, reason } = path::handle(&packet(ctx), ctx.ingress_ifindex() as u32)
            .unwrap_or_else(|reason| Verdict { action: XDP_PASS, reason });
        counters::reason(reason);
        if log_enabled() != 0 && rare(reason) {
            // SAFETY: no arguments, no preconditions.
            let random = unsafe { bpf_get_prandom_u32() };
            if random % LOG_SAMPLE == 0 {
                warn!(ctx, "packet left with reason {}", reason as u32);
            }
        }
        action
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
        match where_to::answer(&packet(&ctx)) {
            Some(()) => XDP_PASS,
            None => 0,
        }
    }

    /// Test-run by the daemon: the tick counter that deadlines are written in.
    #[xdp]
    fn canary_clock(_: XdpContext) -> u32 {
        flows::now()
    }

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    /// Helpers that only GPL-compatible programs may call, and everybody's
    /// right to use the program otherwise.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
