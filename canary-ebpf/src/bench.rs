//! Programs of the benchmark: never attached, and no part of the daemon's object.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use core::mem::offset_of;

    use aya_ebpf::{
        bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX},
        macros::{map, xdp},
        maps::{Array, ProgramArray},
        programs::XdpContext,
    };
    use canary_common::{EXCHANGE_FRAME, Exchange};
    use canary_ebpf::packet::Packet;
    use network_types::tcp::TcpHdr;

    /// The program that [`canary_exchange`] is around.
    #[map]
    static MEASURED: ProgramArray = ProgramArray::with_max_entries(1, 0);

    #[map]
    static EXCHANGE: Array<Exchange> = Array::with_max_entries(1, 0);

    /// What others are measured against: swaps the MACs and sends back.
    #[xdp(frags)]
    fn canary_reference(ctx: XdpContext) -> u32 {
        let Some(frame) = Packet::of(&ctx).header::<14>(0) else { return XDP_PASS };
        let (to, from) = (frame.get::<[u16; 3], 0>(), frame.get::<[u16; 3], 6>());
        frame.set::<[u16; 3], 0>(from);
        frame.set::<[u16; 3], 6>(to);
        XDP_TX
    }

    /// Puts the next frame of an exchange in place of what the run before left
    /// of its own, and goes on with the program that is measured.
    #[xdp(frags)]
    fn canary_exchange(ctx: XdpContext) -> u32 {
        if next_frame(&ctx).is_some() {
            // SAFETY: the same kind of program, on its own context. It comes
            // back only where there is none.
            let _ = unsafe { MEASURED.tail_call(&ctx, 0) };
        }
        XDP_ABORTED
    }

    #[inline(always)]
    fn next_frame(ctx: &XdpContext) -> Option<()> {
        let frame = ctx.data() as *mut [u64; EXCHANGE_FRAME / 8];
        if ctx.data() + EXCHANGE_FRAME > ctx.data_end() {
            return None;
        }
        let exchange = EXCHANGE.get_ptr_mut(0)?;
        // SAFETY: the benchmark's one thread is all that uses the map.
        let exchange = unsafe { &mut *exchange };
        let [request, response] = &mut exchange.frames;
        let next = if exchange.runs & 1 == 0 { request } else { response };
        exchange.runs += 1;
        // SAFETY: within the frame, as was looked at above.
        unsafe { *frame = *next };
        if exchange.v6 == 0 {
            advance::<{ Exchange::tcp_at(false) }>(next, Exchange::data_len(false));
        } else {
            advance::<{ Exchange::tcp_at(true) }>(next, Exchange::data_len(true));
        }
        Some(())
    }

    /// Sequence and acknowledgement numbers of the same side's next frame.
    #[inline(always)]
    fn advance<const TCP: usize>(frame: &mut [u64; EXCHANGE_FRAME / 8], data: usize) {
        for at in [TCP + offset_of!(TcpHdr, seq), TCP + offset_of!(TcpHdr, ack_seq)] {
            // SAFETY: within the frame, whose length is far above TCP + 20.
            unsafe {
                let number = frame.as_mut_ptr().cast::<u8>().add(at).cast::<u32>();
                let later = u32::from_be(number.read_unaligned()).wrapping_add(data as u32);
                number.write_unaligned(later.to_be());
            }
        }
    }

    canary_ebpf::object!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
