//! A track's backends together: nobody is left without a server because of too
//! much care.

use std::time::Duration;

use canary_common::Track;

use super::Ejected;

/// A backend that takes new flows, but for its health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// By its checks.
    pub is_down: bool,
    pub ejected: Option<Ejected>,
}

impl Member {
    const fn is_ejected_alone(&self) -> bool {
        !self.is_down && self.ejected.is_some()
    }

    fn since(&self) -> Duration {
        self.ejected.map_or(Duration::ZERO, |ejected| ejected.since)
    }
}

/// Who gets no new flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// In the order of the members.
    pub out: Vec<bool>,
    /// All of stable are down, so none of them is out: the checks may be wrong,
    /// and nobody is there who could do better.
    pub panic: bool,
}

/// How many may be ejected at once, of those that are not down. One of these
/// stays always.
fn most_ejected(members: &[Member], most: f64) -> usize {
    let down = members.iter().filter(|member| member.is_down).count();
    let share = (most * members.len() as f64 + 1e-9) as usize;
    share.min((members.len() - down).saturating_sub(1))
}

fn ejected(members: &[Member]) -> usize {
    members.iter().filter(|member| member.is_ejected_alone()).count()
}

/// Whether one more may be ejected; `most` is a fraction of 1.
#[must_use]
pub fn has_room(members: &[Member], most: f64) -> bool {
    ejected(members) < most_ejected(members, most)
}

/// Who of a track is out. Where more are ejected than may be (others went down,
/// or were drained, meanwhile), those that have been out for longest come back.
#[must_use]
pub fn decide(track: Track, members: &[Member], most: f64) -> Decision {
    let mut out: Vec<bool> = members.iter().map(|member| member.is_down).collect();
    let mut by_age: Vec<usize> =
        (0..members.len()).filter(|index| members[*index].is_ejected_alone()).collect();
    by_age.sort_by_key(|index| std::cmp::Reverse(members[*index].since()));
    for index in by_age.into_iter().take(most_ejected(members, most)) {
        out[index] = true;
    }
    // The canary has stable to go to.
    let panic = track == Track::Stable && !out.is_empty() && out.iter().all(|out| *out);
    if panic {
        out.fill(false);
    }
    Decision { out, panic }
}
