//! Cases by hand, and random ones that must keep what is promised.

use std::time::Duration;

use canary_common::Track;

use super::{Active, Change, Counted, Ejected, Member, Outcome, Passive, Reason, decide, has_room};
use crate::{
    config::{
        Health,
        health::{Eject, Initial},
    },
    random::Random,
};

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ejecting() -> Eject {
    Eject { enabled: true, ..Eject::default() }
}

fn bad(bad: u64) -> Counted {
    Counted { bad, ..Counted::default() }
}

#[test]
fn so_many_in_a_row_change_it() {
    let rules = Health::default();
    let mut active = Active::new(&rules);
    let mut hear = |outcome, now| active.heard(outcome, &rules, at(now));
    assert_eq!(hear(Outcome::Fail, 1), None);
    assert_eq!(hear(Outcome::Unreachable, 2), None);
    assert_eq!(hear(Outcome::Pass, 3), None);
    for now in 4..6 {
        assert_eq!(hear(Outcome::Fail, now), None);
    }
    assert_eq!(hear(Outcome::Fail, 6), Some(Change::Down));
    assert_eq!(hear(Outcome::Fail, 7), None);
    assert_eq!(hear(Outcome::Pass, 8), None);
    assert_eq!(hear(Outcome::Pass, 9), Some(Change::Up));
    let down = Health { initial: Initial::Down, ..Health::default() };
    assert!(!Active::new(&down).is_up);
}

#[test]
fn flapping_faster_than_rise_and_fall_changes_nothing() {
    let rules = Health { rise: 2, fall: 2, ..Health::default() };
    for is_up in [true, false] {
        let mut active = Active::known(is_up);
        for now in 0..1000 {
            let outcome = if now % 2 == 0 { Outcome::Pass } else { Outcome::Fail };
            assert_eq!(active.heard(outcome, &rules, at(now)), None);
        }
    }
}

/// Against a count of the longest runs, by random results.
#[test]
fn changes_follow_runs_and_nothing_else() {
    let mut random = Random(7);
    for _ in 0..500 {
        let rise = 1 + random.below(4) as u32;
        let fall = 1 + random.below(4) as u32;
        let rules = Health { rise, fall, ..Health::default() };
        let mut active = Active::new(&rules);
        let (mut is_up, mut run) = (true, 0);
        for now in 0..200 {
            let outcome = Outcome::ALL[random.below(3) as usize];
            let against = (outcome == Outcome::Pass) != is_up;
            run = if against { run + 1 } else { 0 };
            let turns = against && run == if is_up { fall } else { rise };
            if turns {
                is_up = !is_up;
                run = 0;
            }
            let change = active.heard(outcome, &rules, at(now));
            assert_eq!(change.is_some(), turns);
            assert_eq!((active.is_up, active.against()), (is_up, run));
        }
    }
}

#[test]
fn gone_is_out_of_reach_and_silent_for_long() {
    let rules = Health { gone_after: Some(at(30)), ..Health::default() };
    let mut active = Active::new(&rules);
    let long = at(1000);
    for now in 0..30 {
        active.heard(Outcome::Unreachable, &rules, at(now));
        assert!(!active.is_gone(&rules, long), "{now}");
    }
    active.heard(Outcome::Unreachable, &rules, at(30));
    assert!(active.is_gone(&rules, at(30)));
    assert!(!active.is_gone(&rules, at(29)), "it spoke to clients");
    assert!(!active.is_gone(&Health { gone_after: None, ..rules.clone() }, long), "never");
    // Somebody is there again, if only to say no.
    active.heard(Outcome::Fail, &rules, at(31));
    assert!(!active.is_gone(&rules, long));
    active.heard(Outcome::Unreachable, &rules, at(32));
    assert!(!active.is_gone(&rules, long), "from the beginning");
}

#[test]
fn a_pause_of_the_daemon_proves_nothing() {
    let rules = Health { gone_after: Some(at(30)), ..Health::default() };
    let mut active = Active::known(false);
    active.heard(Outcome::Unreachable, &rules, at(1));
    // Stopped for an hour.
    active.heard(Outcome::Unreachable, &rules, at(3600));
    assert!(!active.is_gone(&rules, at(3600)));
}

#[test]
fn failures_in_a_row_eject() {
    let rules = ejecting();
    let mut passive = Passive::default();
    // What was before the first look counts for nothing.
    assert_eq!(passive.look(bad(1000), &rules, at(0)), None);
    assert_eq!(passive.look(bad(1004), &rules, at(1)), None);
    let well = Counted { good: 1, bad: 1004, sent: 1 };
    assert_eq!(passive.look(well, &rules, at(2)), None);
    let more = |more: u64| Counted { bad: 1004 + more, ..well };
    assert_eq!(passive.look(more(4), &rules, at(3)), None);
    assert_eq!(passive.look(more(5), &rules, at(4)), Some(Reason::Consecutive(5)));
    let off = Eject::default();
    assert_eq!(passive.look(more(99), &off, at(5)), None);
}

#[test]
fn a_share_of_the_window_ejects() {
    let rules = ejecting();
    let mut passive = Passive::default();
    let (mut counted, mut reason) = (Counted::default(), None);
    passive.look(counted, &rules, at(0));
    // 4 of 10 are not half.
    for second in 1..30 {
        counted = Counted { good: counted.good + 6, bad: counted.bad + 4, sent: 0 };
        assert_eq!(passive.look(counted, &rules, at(second)), None);
    }
    let mut second = 30;
    while reason.is_none() && second < 60 {
        counted = Counted { good: counted.good + 1, bad: counted.bad + 9, sent: 0 };
        reason = passive.look(counted, &rules, at(second));
        second += 1;
    }
    assert!(matches!(reason, Some(Reason::Share(bad, all)) if 2 * bad >= all), "{reason:?}");
    assert!(second < 40, "within one window: {second}");
}

#[test]
fn too_few_are_no_share() {
    let rules = ejecting();
    let mut passive = Passive::default();
    passive.look(Counted::default(), &rules, at(0));
    for second in 1..60 {
        // One and one in each second, 20 in a window of 10 s are needed.
        let counted = Counted { good: second / 2, bad: second / 2, sent: 0 };
        let reason = passive.look(counted, &rules, at(second));
        assert_eq!(reason, None, "{second}");
    }
}

#[test]
fn ejections_back_off_and_are_forgiven() {
    let rules = Eject { base: 10 * SECOND, longest: 60 * SECOND, ..ejecting() };
    let mut passive = Passive::default();
    let mut now = at(0);
    for lasts in [10, 20, 40, 60, 60] {
        assert_eq!(passive.eject(&rules, now), at(lasts));
        assert!(!passive.returns(&rules, now + at(lasts) - SECOND));
        now += at(lasts);
        assert!(passive.returns(&rules, now));
        assert!(!passive.returns(&rules, now), "once");
    }
    assert_eq!(passive.times, 5);
    // 60 s for the last, and 60 for the one before.
    passive.look(Counted::default(), &rules, now + at(59));
    assert_eq!(passive.times, 5);
    passive.look(Counted::default(), &rules, now + at(121));
    assert_eq!(passive.times, 3);
    passive.look(Counted::default(), &rules, now + at(10_000));
    assert_eq!(passive.eject(&rules, now + at(10_000)), at(10));
}

#[test]
fn what_happened_before_an_ejection_is_forgotten() {
    let rules = ejecting();
    let mut passive = Passive::default();
    passive.look(bad(0), &rules, at(0));
    assert!(passive.look(bad(5), &rules, at(1)).is_some());
    passive.eject(&rules, at(1));
    // Handshakes from before still end meanwhile.
    assert_eq!(passive.look(bad(50), &rules, at(20)), None);
    assert!(passive.returns(&rules, at(31)));
    assert_eq!(passive.look(bad(50), &rules, at(32)), None);
    assert_eq!(passive.look(bad(54), &rules, at(33)), None);
    assert!(passive.look(bad(55), &rules, at(34)).is_some());
}

#[test]
fn silence_counts_from_the_first_look() {
    let rules = Eject::default();
    let mut passive = Passive::default();
    assert_eq!(passive.silent_for(at(100)), Duration::ZERO);
    let sent = |sent| Counted { sent, ..Counted::default() };
    passive.look(sent(9), &rules, at(100));
    passive.look(sent(9), &rules, at(110));
    assert_eq!(passive.silent_for(at(110)), at(10));
    passive.look(sent(10), &rules, at(111));
    assert_eq!(passive.silent_for(at(111)), Duration::ZERO);
}

fn down() -> Member {
    Member { is_down: true, ejected: None }
}

fn ejected(since: u64) -> Member {
    let ejected = Ejected { since: at(since), until: at(since + 30) };
    Member { is_down: false, ejected: Some(ejected) }
}

#[test]
fn a_track_keeps_somebody() {
    let well = Member::default();
    let out = |track, members: &[Member]| decide(track, members, 0.5);
    let both = [Track::Stable, Track::Canary];
    for track in both {
        assert_eq!(out(track, &[well, down()]).out, [false, true]);
        assert_eq!(out(track, &[ejected(1)]).out, [false], "the only one stays");
        // Half of three is one: the one that came last.
        assert_eq!(out(track, &[ejected(1), ejected(2), well]).out, [false, true, false]);
        assert_eq!(out(track, &[ejected(1), down()]).out, [false, true]);
        assert_eq!(out(track, &[]).out, [false; 0]);
        assert!(!out(track, &[]).panic);
    }
    let stable = out(Track::Stable, &[down(), down()]);
    assert_eq!((stable.out, stable.panic), (vec![false, false], true));
    let canary = out(Track::Canary, &[down(), down()]);
    assert_eq!((canary.out, canary.panic), (vec![true, true], false));
    assert!(!has_room(&[well], 1.0));
    assert!(has_room(&[well, well], 0.5));
    assert!(!has_room(&[well, ejected(1)], 1.0));
    assert!(!has_room(&[well, well, down()], 0.1), "less than one");
}

#[test]
fn promises_hold_for_random_tracks() {
    let mut random = Random(11);
    for _ in 0..20_000 {
        let members: Vec<Member> = (0..random.below(9))
            .map(|_| Member {
                is_down: random.below(3) == 0,
                ejected: (random.below(3) == 0).then(|| {
                    let since = at(random.below(50));
                    Ejected { since, until: since + SECOND }
                }),
            })
            .collect();
        let most = random.below(101) as f64 / 100.0;
        let track = Track::ALL[random.below(2) as usize];
        let decision = decide(track, &members, most);
        let is_out = |index: usize| decision.out[index];
        let indices = || 0..members.len();
        let all_down = !members.is_empty() && members.iter().all(|member| member.is_down);
        assert_eq!(decision.panic, all_down && track == Track::Stable);
        // Somebody is left wherever somebody is up, and always of stable.
        if indices().any(|i| !members[i].is_down) || track == Track::Stable {
            assert!(members.is_empty() || indices().any(|i| !is_out(i)), "{members:?}");
        }
        // Nobody is out without a reason, and who is down is out but in panic.
        for i in indices() {
            let member = members[i];
            assert!(!is_out(i) || member.is_down || member.ejected.is_some());
            assert!(decision.panic || !member.is_down || is_out(i));
        }
        let only_ejected = indices().filter(|i| is_out(*i) && !members[*i].is_down).count();
        assert!(only_ejected as f64 <= most * members.len() as f64 + 1e-9);
        // Room for one more means that one more would be out.
        let next = members.iter().position(|m| !m.is_down && m.ejected.is_none());
        if let Some(next) = next
            && has_room(&members, most)
        {
            let mut more = members.clone();
            more[next].ejected = ejected(60).ejected;
            let after = decide(track, &more, most).out;
            assert!(after[next] && indices().all(|i| !is_out(i) || after[i]), "{members:?}");
        }
    }
}
