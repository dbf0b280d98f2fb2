//! Drills: failures of the canary that the program makes up.

use std::{mem::offset_of, sync::atomic::Ordering, time::Duration};

use canary_common::{Cidr, Fault, FaultKind, Split};

use super::{
    Dataplane,
    error::{Context as _, DataplaneError},
};

/// A drill: which of the canary's new connections fail, and how. TCP only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FaultOrder {
    pub kind: FaultKind,
    /// Of new connections to the canary, a fraction of 1.
    pub share: f64,
    /// Those of these clients; `None`: of all.
    pub clients: Option<Cidr>,
    /// After so long it is over, whether a daemon is there or not.
    pub lasts: Duration,
}

/// How a drill stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultState {
    pub kind: FaultKind,
    /// Connections that were made to fail.
    pub faulted: u64,
    /// Zero where it is over.
    pub left: Duration,
}

/// What is no fraction of 1.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no fraction of 1")]
struct NoFraction(f64);

impl Dataplane {
    /// Begins a drill in place of the one before, or ends it. Connections that
    /// were drawn to fail by an earlier one and live fail as this one says.
    ///
    /// # Errors
    /// Where the share is no fraction of 1, or the kernel does not tell its
    /// clock: the drill before has ended.
    pub fn set_fault(
        &mut self,
        service: u16,
        order: Option<&FaultOrder>,
    ) -> Result<(), DataplaneError> {
        // Nothing fails while it is written.
        let until = self.faults.word(u32::from(service), offset_of!(Fault, until));
        until.store(0, Ordering::SeqCst);
        let Some(order) = order else { return Ok(()) };
        let share = Split::from_fraction(order.share).ok_or(NoFraction(order.share));
        let share = share.context(|| "setting a drill's share")?.parts();
        let (network, mask) =
            order.clients.map_or_else(Default::default, |clients| clients.network_and_mask());
        let fault = Fault { share, kind: order.kind as u32, network, mask, ..Fault::default() };
        self.faults.write(u32::from(service), &fault);
        let over = self.deadline(self.clock()?, order.lasts);
        let until = self.faults.word(u32::from(service), offset_of!(Fault, until));
        until.store(over, Ordering::SeqCst);
        Ok(())
    }

    /// The drill of a service; `None` where there was none.
    ///
    /// # Errors
    /// Where the kernel does not tell its clock.
    pub fn fault(&self, service: u16) -> Result<Option<FaultState>, DataplaneError> {
        let fault = self.faults.read(u32::from(service));
        let Some(kind) = FaultKind::from_number(fault.kind) else { return Ok(None) };
        let jiffies = fault.until.saturating_sub(self.clock()?);
        let left = Duration::from_millis(jiffies.saturating_mul(1000) / u64::from(self.hz));
        Ok(Some(FaultState { kind, faulted: fault.faulted, left }))
    }
}
