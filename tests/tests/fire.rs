//! Under fire, the short versions; `cargo xtask fire` runs the long ones.
#![allow(clippy::unwrap_used, reason = "tests")]

use anyhow::Result;
use canary_tests::fire::{self, FloodPlan, Plan, Row};

fn all_fine(rows: &[Row]) -> Result<()> {
    eprint!("{}", fire::markdown(rows));
    rows.iter().try_for_each(Row::check)
}

#[test]
fn connections_live_through_what_is_done_to_the_daemon() {
    let body = || all_fine(&fire::restarts(&Plan::SHORT)?);
    body().unwrap();
}

#[test]
fn no_pin_is_lost_to_a_flood() {
    let body = || all_fine(&fire::floods(&FloodPlan::SHORT)?);
    body().unwrap();
}
