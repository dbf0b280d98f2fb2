//! Prints what the evidence does over whole rollouts; docs/evidence.md has the
//! tables. `cargo run --release -p canary-tests --bin canary-simulate`.
#![allow(clippy::print_stdout, reason = "its output is for people")]

use std::time::Instant;

use canary::judge::TrackCounts;
use canary_tests::simulate::{failures, rivals, shown, times, together};

/// Rollouts of each row.
const ROLLOUTS: u32 = 10_000;

fn false_rollbacks() {
    let (looks, between) = (failures::LOOKS, failures::BETWEEN);
    println!(
        "Canary equal to stable, {looks} looks, one every {between} connections, {ROLLOUTS} rollouts: rolled back, %"
    );
    println!("  {:<36} {:>8} {:>8} {:>16}", "", "ratio", "margin", "fixed threshold");
    for scene in failures::SCENES {
        let [ratio, margin, threshold] = failures::false_rollbacks_beside(&scene, ROLLOUTS);
        println!("  {:<36} {ratio:>8.2} {margin:>8.2} {threshold:>16.2}", scene.name);
    }
}

fn delays() {
    println!("\nStable 0.1 % bad: connections in all until rollback, median of 2,001");
    println!("  {:<20} {:>9} {:>9} {:>9}", "", "1 %", "5 %", "25 %");
    for rate in [0.01, 0.05, 1.0] {
        let [a, b, c] =
            [0.01, 0.05, 0.25].map(|share| shown(failures::median_delay(share, rate, 2001)));
        println!("  canary {:>5.1} % bad   {a:>9} {b:>9} {c:>9}", rate * 100.0);
    }
    println!("  all six metrics watched, medians of 201");
    for rate in [0.01, 0.05, 1.0] {
        let median = shown(together::median_delay(0.05, rate, 201));
        println!("  canary {:>5.1} % bad   {:>9} {median:>9}", rate * 100.0, "");
    }
    println!(
        "\nAll {} metrics watched, canary equal to stable, 1,000 rollouts: rolled back {:.2} %",
        together::METRICS,
        together::false_rollbacks(1000)
    );
}

fn promotions() {
    println!("\nSafe, tolerated twice or 0.1 % more, {ROLLOUTS} rollouts of 150,000 connections");
    for (name, ratio, share) in [
        ("equal to stable, 25 %", 1.0, 0.25),
        ("equal to stable, 50 %", 1.0, 0.5),
        ("at the margin, 25 %", 2.0, 0.25),
        ("at the margin, 50 %", 2.0, 0.5),
    ] {
        let (promoted, half) = failures::promotions(ratio, share, ROLLOUTS);
        println!("  {name:<24} promoted {promoted:>6.2} %, half of all by {}", shown(half));
    }
}

fn latency() {
    println!(
        "\nTimes, 5 %, none tolerated: equal ones found slower, 2,000 rollouts of 50,000 connections"
    );
    for before in [100, 1000, 10_000] {
        println!("  {before:>6} from before: {:.2} %", times::false_rollbacks(before, 2000));
    }
    println!("Connections in all until a canary is out, medians of 501");
    for change in times::CHANGES {
        println!("  {:<28} {:>8}", change.name, shown(times::median_delay(&change, 501)));
    }
}

fn last_step() {
    println!(
        "\nAt 100 %, 1 % more than stable fails, which is the margin, {ROLLOUTS} rollouts of 20,000 connections: rolled back"
    );
    for record in [20, 1000, 100_000] {
        let out = together::false_rollbacks_at_the_end(record, ROLLOUTS);
        println!("  {record:>7} of stable's on record: {out:.2} %");
    }
    println!("Connections until a canary that fails always is out, all six metrics watched");
    for record in [0, 20, 1000, 100_000] {
        let before =
            TrackCounts { connections: record, resets: record / 1000, ..TrackCounts::default() };
        println!(
            "  {record:>7} of stable's on record: {}",
            shown(together::until_out(Some(before)))
        );
    }
}

fn beside_others() {
    println!(
        "\nAn hour at 5 %, 20 connections of the canary's a minute, {ROLLOUTS} rollouts: rolled back, half of them by"
    );
    print!("  {:<32}", "");
    for (name, _) in rivals::RULES {
        print!(" {name:>24}");
    }
    println!();
    for traffic in rivals::TRAFFIC {
        print!("  {:<32}", traffic.name);
        for (_, rule) in rivals::RULES {
            let (out, half) = rivals::rolled_back(&traffic, rule, ROLLOUTS);
            let half = half.map_or(String::new(), |minute| format!(", minute {minute}"));
            print!(" {:>24}", format!("{out:.2} %{half}"));
        }
        println!();
    }
    let [once, peeking] = rivals::ended_by_ranks(ROLLOUTS);
    println!(
        "Equal measures, Mann-Whitney at 2 %: rolled back by one look {once:.2} %, by one a minute {peeking:.2} %"
    );
}

fn main() {
    let begun = Instant::now();
    false_rollbacks();
    delays();
    promotions();
    latency();
    last_step();
    beside_others();
    let [judged, budgeted] = together::cost();
    println!("\nA judgement of five epochs takes {judged:.0} µs, a budget {budgeted:.0} µs");
    println!("({:.0} s)", begun.elapsed().as_secs_f64());
}
