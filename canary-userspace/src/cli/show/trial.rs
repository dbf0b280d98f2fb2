//! Rollouts, steering and drills, for people.

use super::{percent, rounded, table, time_of_day_and_date};
use crate::api::types::{DrillReport, Explanation, History, HistoryEntry, RolloutStatus, Steered};

/// One line: phase, step and reason.
pub(in crate::cli) fn rollout(status: &RolloutStatus) -> String {
    let RolloutStatus { phase, step, steps, reason, .. } = status;
    match step {
        0 => format!("{phase}: {reason}"),
        step => format!("{phase} (step {step} of {steps}): {reason}"),
    }
}

pub(in crate::cli) fn explanation(explanation: &Explanation) -> String {
    let split = percent(explanation.split.configured);
    let mut text =
        format!("{}  canary {split}   {}\n", explanation.service, rollout(&explanation.rollout));
    for line in &explanation.text {
        text.push_str(&format!("  {line}\n"));
    }
    for gate in &explanation.gates {
        let at = gate.at.map_or(String::new(), |at| format!(" ({})", time_of_day_and_date(at)));
        text.push_str(&format!("  gate {}: {}{at} {}\n", gate.name, gate.answer, gate.detail));
    }
    let guard = &explanation.guard;
    let left = guard.budget_left.map_or(String::new(), |left| {
        let plural = if left == 1 { "" } else { "s" };
        format!("; it acts by itself at {left} more failure{plural} of the canary")
    });
    let diverted = match guard.diverted {
        0 => String::new(),
        flows => format!("; all in all it has sent {flows} new flows to stable instead"),
    };
    text.push_str(&format!("  the kernel's guard: {}{left}{diverted}\n", guard.status));
    text
}

pub(in crate::cli) fn history(history: &History) -> String {
    if history.entries.is_empty() {
        return format!("{}: no rollout yet\n", history.service);
    }
    let line = |entry: &HistoryEntry| {
        let (rollout, step) = match entry.rollout {
            0 if entry.event == "health" => (entry.backend.clone(), String::new()),
            0 => ("by hand".to_owned(), String::new()),
            number => (format!("#{number}"), format!("step {} of {}  ", entry.step, entry.steps)),
        };
        let (from, to) = (&entry.from, &entry.to);
        let phase = if from == to { from.clone() } else { format!("{from} → {to}") };
        format!(
            "{}  {rollout}  {:<10} {phase}  {step}canary {}\n    {}\n",
            time_of_day_and_date(entry.at),
            entry.event,
            percent(entry.split),
            entry.reason
        )
    };
    history.entries.iter().map(line).collect()
}

pub(in crate::cli) fn steered(steered: &Steered) -> String {
    if steered.total == 0 {
        return format!("{}: no network is steered\n", steered.service);
    }
    let head = ["clients", "track", "by", "for"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for network in &steered.networks {
        let always = if network.always { " always" } else { "" };
        rows.push(vec![
            network.clients.clone(),
            format!("{}{always}", network.track),
            if network.configured { "configuration" } else { "command" }.to_owned(),
            network.expires_in.map_or("ever".to_owned(), |left| format!("{left:.0} s")),
        ]);
    }
    let rest = match steered.total.saturating_sub(steered.networks.len() as u64) {
        0 => String::new(),
        rest => format!("… and {rest} more (--limit)\n"),
    };
    format!("{}{rest}", table(&rows, 4))
}

pub(in crate::cli) fn drill(report: &DrillReport) -> String {
    let drill = &report.drill;
    let who = drill.clients.clone().unwrap_or_else(|| "all clients".to_owned());
    let dry = if drill.dry { ", dry: nothing really failed" } else { "" };
    let mut text = format!(
        "{}: drill {} of {} of the canary's new connections, {who}{dry}\n",
        report.service,
        drill.fault,
        rounded(drill.share, 2)
    );
    text.push_str(&format!(
        "  {} after {:.1} s: {} of {} connections reached the canary, {} failed\n",
        if report.over { "over" } else { "under way" },
        report.elapsed,
        report.canary_connections,
        report.connections,
        report.faulted
    ));
    let detected = match (report.detected, report.detected_after, report.detected_connections) {
        (true, Some(after), Some(connections)) => {
            format!("DETECTED after {after:.2} s and {connections} connections: {}", report.by)
        }
        (true, ..) => format!("DETECTED: {}", report.by),
        (false, ..) if report.over => format!("NOT DETECTED: {}", report.by),
        (false, ..) => "not detected yet".to_owned(),
    };
    text.push_str(&format!("  {detected}\n"));
    text.push_str(&match report.stable_failures {
        0 => "  stable saw nothing of it\n".to_owned(),
        failures => format!("  stable had {failures} failures meanwhile\n"),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Drill;

    #[test]
    fn a_drill_says_whether_it_was_found() {
        let mut report = DrillReport {
            service: "web".to_owned(),
            drill: Drill {
                fault: "reset".to_owned(),
                share: 0.1,
                lasts: 30.0,
                clients: Some("192.0.2.0/24".to_owned()),
                dry: false,
            },
            elapsed: 4.25,
            faulted: 9,
            connections: 2000,
            canary_connections: 101,
            ..DrillReport::default()
        };
        assert!(drill(&report).contains("not detected yet"), "{}", drill(&report));
        report.over = true;
        report.by = "its time was over".to_owned();
        assert!(drill(&report).contains("NOT DETECTED: its time was over"));
        report.detected = true;
        report.by = "resets".to_owned();
        report.detected_after = Some(3.5);
        report.detected_connections = Some(1500);
        assert_eq!(
            drill(&report),
            "web: drill reset of 10 % of the canary's new connections, 192.0.2.0/24\n  \
             over after 4.2 s: 101 of 2000 connections reached the canary, 9 failed\n  \
             DETECTED after 3.50 s and 1500 connections: resets\n  \
             stable saw nothing of it\n"
        );
    }
}
