//! What follows from what is seen of a service: a judgement, and the kernel's
//! budget. Computed when what is seen has changed, not at each look: hundreds of
//! services may be on trial, most of them at rest.

use super::super::state::Daemon;
use crate::{
    config::{Evidence, Service},
    judge::{self, Judgement, Seen},
};

#[derive(Debug)]
pub(super) struct Judged {
    seen: Seen,
    rules: Evidence,
    pub(super) judgement: Judgement,
    /// See [`judge::budget`].
    pub(super) budget: Option<u64>,
}

impl Judged {
    fn of(seen: &Seen, rules: &Evidence) -> Self {
        Self {
            seen: seen.clone(),
            rules: *rules,
            judgement: judge::judge(seen, rules),
            budget: judge::budget(seen, rules),
        }
    }

    fn is_of(&self, seen: &Seen, rules: &Evidence) -> bool {
        self.seen == *seen && self.rules == *rules
    }
}

impl Daemon {
    pub(super) fn judged(&mut self, service: &Service, seen: &Seen, rules: &Evidence) -> &Judged {
        let trial = self.trial(&service.name);
        if trial.judged.as_ref().is_some_and(|judged| !judged.is_of(seen, rules)) {
            trial.judged = None;
        }
        trial.judged.get_or_insert_with(|| Judged::of(seen, rules))
    }
}
