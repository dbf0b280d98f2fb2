//! A live record, and what a packet reads and writes of it.

use core::mem::offset_of;

use canary_common::{Ctl, Flow, FlowState, FrameAddresses};
use network_types::eth::EthHdr;

use super::{ctl_of, deadline_of, exchange};
use crate::{atomic, maps::jiffies_per_second, packet::Header, parse::Parsed, tcp::Tracked};

/// A live record, and what of it every packet needs, read consistently.
#[derive(Clone, Copy, Debug)]
pub struct Pin {
    pub(super) flow: *mut Flow,
    pub(super) ctl: Ctl,
    pub backend: u16,
    pub cell: u16,
}

/// Where the client's packets come from.
#[derive(Clone, Copy, Debug)]
pub struct WayBack {
    pub ifindex: u32,
    pub frame: FrameAddresses,
}

impl Pin {
    #[inline(always)]
    pub fn state(&self) -> FlowState {
        self.ctl.state()
    }

    /// [`canary_common::FlowFlags`].
    #[inline(always)]
    pub fn flags(&self) -> u16 {
        self.ctl.flags()
    }

    #[inline(always)]
    pub fn tracked(&self) -> Tracked {
        let (client_seq, backend_seq) = self.seqs();
        Tracked {
            state: self.ctl.state(),
            flags: self.ctl.flags(),
            client_seq,
            backend_seq,
            waiting_since: self.waiting_since(),
            reserved: 0,
        }
    }

    #[inline(always)]
    fn seqs(&self) -> (u32, u32) {
        // SAFETY: a live map value.
        let client = unsafe { atomic::load(&raw const (*self.flow).client_seq) };
        // SAFETY: as above.
        (client, unsafe { atomic::load(&raw const (*self.flow).backend_seq) })
    }

    #[inline(always)]
    fn waiting_since(&self) -> u32 {
        // SAFETY: a live map value.
        unsafe { atomic::load(&raw const (*self.flow).waiting_since) }
    }

    /// Writes what a packet changed of the record as [`Pin::tracked`] gave it.
    /// `false`: another CPU changed the state at the same time; read it again
    /// with [`Pin::again`].
    #[inline(always)]
    pub fn commit(&mut self, before: &Tracked, next: &Tracked) -> bool {
        let ctl = self.ctl.with(next.state, next.flags);
        if ctl != self.ctl {
            if !exchange(self.flow, self.ctl, ctl) {
                return false;
            }
            self.ctl = ctl;
        }
        if next.client_seq != before.client_seq {
            // SAFETY: a live map value.
            unsafe { atomic::store(&raw mut (*self.flow).client_seq, next.client_seq) };
        }
        if next.backend_seq != before.backend_seq {
            // SAFETY: a live map value.
            unsafe { atomic::store(&raw mut (*self.flow).backend_seq, next.backend_seq) };
        }
        if next.waiting_since != before.waiting_since {
            // SAFETY: a live map value.
            unsafe { atomic::store(&raw mut (*self.flow).waiting_since, next.waiting_since) };
        }
        true
    }

    /// Reads the state again; `false` where the record is another flow's now.
    #[inline(always)]
    pub fn again(&mut self) -> bool {
        let ctl = ctl_of(self.flow);
        let same = (ctl.0 ^ self.ctl.0) & Ctl::IDENTITY == 0;
        if same {
            self.ctl = ctl;
        }
        same
    }

    /// Moves the end of the flow's time to `timeout` jiffies from now, once a
    /// second at most: the two directions may be on two CPUs, and the line
    /// need not go to and fro for less.
    #[inline(always)]
    pub fn extend(&self, timeout: u32, now: u32) {
        let deadline = now.wrapping_add(timeout);
        if deadline.wrapping_sub(deadline_of(self.flow)).wrapping_add(1) > jiffies_per_second() {
            // SAFETY: a live map value.
            unsafe { atomic::store(&raw mut (*self.flow).deadline, deadline) };
        }
    }

    /// Has the flow's time begin now, to the jiffy: a handshake may have no more
    /// than a second.
    #[inline(always)]
    pub fn restart(&self, timeout: u32, now: u32) {
        // SAFETY: a live map value.
        unsafe { atomic::store(&raw mut (*self.flow).deadline, now.wrapping_add(timeout)) };
    }

    /// Whether the client's packets still come from where replies go.
    #[inline(always)]
    pub fn comes_by(&self, frame: &Header<{ EthHdr::LEN }>, ingress: u32) -> bool {
        const SOURCE: usize = offset_of!(EthHdr, src_addr);
        // SAFETY: a live map value.
        let (ifindex, words) = unsafe {
            let words = &raw const (*self.flow).reply_frame.words;
            let ends = [atomic::load(&raw const (*words)[0]), atomic::load(&raw const (*words)[1])];
            (atomic::load(&raw const (*self.flow).client_ifindex), ends)
        };
        ifindex == ingress
            && words[0] == frame.get::<u32, SOURCE>()
            && words[1] as u16 == frame.get::<u16, { SOURCE + size_of::<u32>() }>()
    }

    /// Has replies go where this packet of the client's came from, should that
    /// be another neighbour or interface than before: routers fail over. Only of
    /// flows that make no room for others, so that nobody else has the record by
    /// now; that it was still this flow's when the two were compared is looked at
    /// afterwards. A reply that is on its way meanwhile may meet half of it, and
    /// is sent again.
    #[inline(always)]
    pub fn follow_client(&self, parsed: &Parsed, ingress: u32) {
        if !matches!(self.state(), FlowState::Established | FlowState::Answered)
            || self.comes_by(&parsed.ethernet, ingress)
            || (ctl_of(self.flow).0 ^ self.ctl.0) & Ctl::IDENTITY != 0
        {
            return;
        }
        let frame = parsed.reply_frame();
        // SAFETY: a live map value.
        unsafe {
            atomic::store(&raw mut (*self.flow).client_ifindex, ingress);
            let words = &raw mut (*self.flow).reply_frame.words;
            for (i, word) in frame.words.into_iter().enumerate() {
                atomic::store(words.cast::<u32>().add(i), word);
            }
        }
    }

    /// `None` where the record became another flow's while reading.
    #[inline(always)]
    pub fn way_back(&self) -> Option<WayBack> {
        let flow = self.flow;
        // SAFETY: a live map value; read word by word, in this order, and
        // confirmed below. See `read` for why volatile.
        let way_back = unsafe {
            let words = &raw const (*flow).reply_frame.words;
            WayBack {
                ifindex: atomic::load(&raw const (*flow).client_ifindex),
                frame: FrameAddresses {
                    words: [
                        atomic::load(&raw const (*words)[0]),
                        atomic::load(&raw const (*words)[1]),
                        atomic::load(&raw const (*words)[2]),
                    ],
                },
            }
        };
        ((ctl_of(flow).0 ^ self.ctl.0) & Ctl::IDENTITY == 0).then_some(way_back)
    }
}
