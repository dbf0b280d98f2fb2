//! Under fire, the short versions; `cargo xtask fire` runs the long ones.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use anyhow::Result;
use canary_tests::fire::{self, FloodPlan, Plan, Row, Silence, SoakPlan};

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

#[test]
fn what_is_full_cuts_nobody() {
    let body = || all_fine(&fire::full()?);
    body().unwrap();
}

#[test]
fn a_disk_that_takes_nothing_stops_nothing() {
    let body = || all_fine(&fire::disks()?);
    body().unwrap();
}

#[test]
fn what_is_missing_around_it_stops_nothing() {
    let body = || all_fine(&fire::surroundings()?);
    body().unwrap();
}

#[test]
fn a_daemon_that_stands_gives_the_canary_no_more() {
    let body = || all_fine(&fire::suspended()?);
    body().unwrap();
}

#[test]
fn a_silent_host_costs_its_own_connections_alone() {
    let body = || all_fine(&fire::silent(&[Silence::CHECKED])?);
    body().unwrap();
}

#[test]
fn what_is_sent_again_finds_its_server() {
    let body = || all_fine(&fire::lossy(Duration::from_secs(20))?);
    body().unwrap();
}

#[test]
fn half_a_minute_of_everything() {
    let body = || all_fine(&fire::soak(&SoakPlan::short())?);
    body().unwrap();
}
