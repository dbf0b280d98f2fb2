//! Before `detach`: no new connections, those that are there finish.
//!
//! While it lasts no backend takes new flows, so that what begins goes to the
//! kernel as it came: to this host's own service where the VIP is its address,
//! else where its routes say. Nothing of it is written down, and it ends by
//! itself where nobody who may end it asks how far it is: who asked for it is
//! gone then.

use std::time::{Duration, Instant};

use super::state::Daemon;
use crate::api::{
    request::{Peer, Refusal},
    types::DetachDrain,
};

/// Who waits asks twice a second.
const PATIENCE: Duration = Duration::from_secs(10);

impl Daemon {
    /// Begins or ends it; or just tells, and has it go on for who `waits`.
    pub(super) fn detach_drain(
        &mut self,
        drain: Option<bool>,
        waits: bool,
        by: &Peer,
    ) -> Result<DetachDrain, Refusal> {
        match drain {
            Some(drain) => self.set_leaving(drain, &format!("asked for by {by}"))?,
            None if self.leaving.is_some() && waits => self.leaving = Some(Instant::now()),
            None => {}
        }
        Ok(DetachDrain { draining: self.leaving.is_some(), active: self.pins()?.total })
    }

    fn set_leaving(&mut self, drain: bool, why: &str) -> Result<(), Refusal> {
        let before = self.leaving;
        self.leaving = drain.then(Instant::now);
        if before.is_some() == drain {
            return Ok(());
        }
        if let Err(error) = self.apply() {
            self.leaving = before;
            self.restore();
            return Err(Refusal::internal(format!("{error:#}; going back to what was")));
        }
        let what = if drain { "go to the kernel" } else { "are taken again" };
        tracing::info!("draining before detach: {drain}, {why}; new connections {what}");
        Ok(())
    }

    /// At each tick.
    pub(super) fn leave_no_longer(&mut self) {
        if self.leaving.is_some_and(|asked| asked.elapsed() > PATIENCE)
            && let Err(refusal) = self.set_leaving(false, "nobody waits for it any more")
        {
            tracing::error!("{}", refusal.message);
        }
    }

    /// For `canary status`.
    pub(super) fn leaving_warning(&self) -> Option<String> {
        self.leaving.map(|_| {
            "`canary detach --drain` is under way: new connections go to the kernel".to_owned()
        })
    }
}
