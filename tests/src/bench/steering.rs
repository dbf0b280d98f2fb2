//! What the daemon takes over as many steered addresses as there can be.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use anyhow::{Result, ensure};
use canary::dataplane::Steering;
use canary_common::{Cidr, MAX_STEERED, Track};

use super::report::{Row, Section};
use crate::{netns::in_new_namespace, plane::Plane};

/// # Errors
/// Without root, or where the kernel refuses.
pub fn sections(_quick: bool) -> Result<Vec<Section>> {
    in_new_namespace(["cny-a", "cny-b"], || {
        let mut plane = Plane::new(1024)?;
        let plane = plane.get();
        let address = |i: u32| Cidr::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + i)));
        let to = Steering { track: Track::Canary, always: false, expires_in: None };
        let mut rows = Vec::new();
        let mut row = |name: &str, began: Instant| -> Result<()> {
            rows.push(Row::of(name, &[began.elapsed().as_secs_f64()])?);
            Ok(())
        };
        let began = Instant::now();
        plane.steer_all(1, (0..MAX_STEERED).map(|i| (address(i), to)))?;
        row("put in", began)?;
        let began = Instant::now();
        let (_, total) = plane.steered(1, 100)?;
        row("counted", began)?;
        let began = Instant::now();
        plane.forget_steering(1)?;
        row("forgotten", began)?;
        ensure!(total == MAX_STEERED as usize && plane.steered(1, 1)?.1 == 0, "{total} steered");
        let about = format!("{MAX_STEERED} steered addresses");
        Ok(vec![Section { name: "steering".to_owned(), about, unit: "s".to_owned(), rows }])
    })
}
