//! The latest connections of an epoch. A version that was good for an hour and
//! breaks now must not be judged by the hour.

use std::collections::VecDeque;

use crate::controller::Tally;

/// Looks that are kept: a minute's, at four a second.
const LOOKS: usize = 240;

/// Canary's and stable's counts at one look, since the epoch began.
type Look = (Tally, Tally);

/// The looks of one service in one epoch.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    looks: VecDeque<Look>,
}

impl Recent {
    /// Adds a look and gives the shortest stretch up to it that holds `enough`
    /// canary connections, as counts of both tracks; `None` while there is
    /// none shorter than the whole epoch.
    pub fn look(&mut self, canary: Tally, stable: Tally, enough: u64) -> Option<Look> {
        if self.looks.back().is_some_and(|(before, _)| before.connections > canary.connections) {
            // Counts only go back when a new epoch begins.
            self.looks.clear();
        }
        let since = self
            .looks
            .iter()
            .rev()
            .find(|(before, _)| canary.connections - before.connections >= enough)
            .map(|(c, s)| (less(canary, *c), less(stable, *s)));
        if self.looks.len() == LOOKS {
            self.looks.pop_front();
        }
        self.looks.push_back((canary, stable));
        since
    }
}

fn less(now: Tally, before: Tally) -> Tally {
    Tally {
        connections: now.connections.saturating_sub(before.connections),
        bad: now.bad.saturating_sub(before.bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn tally(connections: u64, bad: u64) -> Tally {
        Tally { connections, bad }
    }

    #[test]
    fn the_shortest_stretch_with_enough() {
        let mut recent = Recent::default();
        assert_eq!(recent.look(tally(100, 0), tally(900, 1), 200), None);
        assert_eq!(recent.look(tally(250, 0), tally(1900, 1), 200), None);
        assert_eq!(
            recent.look(tally(400, 30), tally(3000, 2), 200),
            Some((tally(300, 30), tally(2100, 1)))
        );
        assert_eq!(
            recent.look(tally(460, 80), tally(3500, 2), 200),
            Some((tally(210, 80), tally(1600, 1)))
        );
        // A new epoch begins from nothing.
        assert_eq!(recent.look(tally(10, 0), tally(20, 0), 5), None);
        assert_eq!(recent.look(tally(16, 1), tally(30, 0), 5), Some((tally(6, 1), tally(10, 0))));
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::default();
        for i in 0..10_000 {
            recent.look(tally(i, 0), tally(i, 0), u64::MAX);
        }
        assert_eq!(recent.looks.len(), LOOKS);
    }
}
