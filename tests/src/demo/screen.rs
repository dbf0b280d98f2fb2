//! The live picture: redrawn in place on a terminal, else a line a second.

use std::{
    io::{IsTerminal as _, stdout},
    time::{Duration, Instant},
};

use canary::api::types::{ServiceStatus, Status};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

pub(super) struct Screen {
    terminal: bool,
    /// Lines to go up before the next picture.
    drawn: usize,
    last: Option<Instant>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { terminal: stdout().is_terminal(), drawn: 0, last: None }
    }

    /// Says what was done.
    pub(super) fn command(&mut self, text: &str) {
        println!("\n> {text}");
        self.drawn = 0;
        self.last = None;
    }

    pub(super) fn show(&mut self, status: &Status) {
        if !self.terminal {
            if self.last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                self.last = Some(Instant::now());
                for service in &status.services {
                    println!("  {}", headline(service));
                }
            }
            return;
        }
        let lines: Vec<String> = status.services.iter().flat_map(picture).collect();
        if self.drawn > 0 {
            print!("\x1b[{}A", self.drawn);
        }
        for line in &lines {
            println!("\x1b[2K{line}");
        }
        self.drawn = lines.len();
    }
}

fn headline(service: &ServiceStatus) -> String {
    let actual = service.split.actual.map_or("-".to_owned(), |a| format!("{:.3} %", a * 100.0));
    let sum = |pick: fn(&canary::api::types::Counters) -> u64| -> u64 {
        service.tracks.iter().flat_map(|t| &t.backends).map(|b| pick(&b.counters)).sum()
    };
    format!(
        "{:<4} split {:>5.1} % actual {actual:>9}   connections {:>6}   live {:>4}   resets by backends {}",
        service.name,
        service.split.configured * 100.0,
        sum(|c| c.connections),
        sum(|c| c.active),
        sum(|c| c.resets_backend)
    )
}

fn picture(service: &ServiceStatus) -> Vec<String> {
    let mut lines = vec![format!("  {}", headline(service))];
    for track in &service.tracks {
        for backend in &track.backends {
            let counters = &backend.counters;
            lines.push(format!(
                "    {:<6} {:<20} {:<10} connections {:>6}  live {:>4}  refused {:>4}  resets {:>4}",
                track.name,
                backend.address,
                backend.state,
                counters.connections,
                counters.active,
                counters.refused,
                counters.resets_backend
            ));
        }
    }
    lines
}
