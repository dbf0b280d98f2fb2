//! Orders, to the real program.

use std::time::Duration;

use anyhow::Result;
use canary::{
    dataplane::{self, FaultOrder, Steering},
    plan::Write,
};
use canary_common::{FaultKind, Service, Told, told};

use super::{
    orders::{Clients, GuardOrder, Steered},
    real::{Real, service},
    world,
};

/// Longer than any case.
const HOUR: Duration = Duration::from_secs(3600);

/// [`super::orders::COUNTS`], for the program.
const COUNTS: [Told; 2] = [
    told!(resets_client).and(told!(http_5xx)).and(told!(tls_alerts_backend)),
    told!(refused).and(told!(resets_backend)).and(told!(connections_5xx)),
];

impl Real {
    pub(super) fn guard(&mut self, service: u16, order: GuardOrder) -> Result<()> {
        let plane = self.plane.get();
        match order {
            GuardOrder::Arm { budget, failures } => {
                let (budget, counts) = (budget.map(u64::from), COUNTS[usize::from(failures)]);
                let order = dataplane::GuardOrder { budget, dead_man: Some(HOUR), counts };
                plane.arm_guard(service, &order)?;
            }
            GuardOrder::Budget(more) => {
                let seen_bad = plane.read_guard(service).bad;
                plane.set_budget(service, seen_bad, u64::from(more));
            }
            GuardOrder::Hold => plane.hold_guard(service),
            GuardOrder::Disarm => plane.disarm_guard(service),
        }
        Ok(())
    }

    pub(super) fn steer(
        &mut self,
        service: u16,
        clients: Clients,
        to: Option<Steered>,
    ) -> Result<()> {
        let network = clients.network(service);
        match to {
            Some(Steered { to, always }) => {
                let steering = Steering { track: to, always, expires_in: None };
                self.plane.get().steer(service, network, &steering)?;
            }
            None => {
                self.plane.get().unsteer(service, network)?;
            }
        }
        Ok(())
    }

    pub(super) fn generation(&mut self, number: u16, generation: u8) -> Result<()> {
        let record = Service { generation, ..service(number) };
        Ok(self.plane.get().apply(&[Write::Service { number, record }])?)
    }

    pub(super) fn fault(
        &mut self,
        service: u16,
        kind: Option<FaultKind>,
        clients: Clients,
    ) -> Result<()> {
        let clients = Some(clients.network(service));
        let order = kind.map(|kind| FaultOrder { kind, share: 1.0, clients, lasts: HOUR });
        Ok(self.plane.get().set_fault(service, order.as_ref())?)
    }

    pub(super) fn faulted(&mut self, service: u16) -> Result<u64> {
        Ok(self.plane.get().fault(service)?.map_or(0, |fault| fault.faulted))
    }

    /// As if none had ever been given.
    pub(super) fn forget_orders(&mut self) -> Result<()> {
        for service in 0..world::SERVICES.len() as u16 {
            self.plane.get().disarm_guard(service);
            self.plane.get().forget_steering(service)?;
            self.plane.get().set_fault(service, None)?;
            self.generation(service, 1)?;
        }
        Ok(())
    }
}
