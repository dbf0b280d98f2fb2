//! Timeouts and further tries.

use std::time::Duration;

/// The shortest pause comes after the first try; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How a try ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tried<T> {
    /// Asking again would not change it.
    Settled(T),
    NoAnswer(String),
}

/// What became of the last of all tries, and how many there were.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoAnswer(pub(super) String);

/// Tries until it is settled, at most `retries + 1` times; each try is ended
/// after `timeout`.
pub(super) async fn persist<T, F: Future<Output = Tried<T>>>(
    timeout: Duration,
    retries: u32,
    mut attempt: impl FnMut() -> F,
) -> Result<T, NoAnswer> {
    let mut done = 0_u32;
    loop {
        let detail = match tokio::time::timeout(timeout, attempt()).await {
            Ok(Tried::Settled(answer)) => return Ok(answer),
            Ok(Tried::NoAnswer(detail)) => detail,
            Err(_) => format!("no answer within {}", humantime::format_duration(timeout)),
        };
        if done == retries {
            let tries = u64::from(done) + 1;
            return Err(NoAnswer(match tries {
                1 => detail,
                _ => format!("{detail} (the last of {tries} tries)"),
            }));
        }
        // Without randomness all hosts pause alike, which is no harm to speak of.
        tokio::time::sleep(pause(done, getrandom::u32().unwrap_or(u32::MAX))).await;
        done += 1;
    }
}

/// How long to wait after try `done` (from 0 on). `random` spreads it over the
/// upper half of what it is at most, so that many hosts that lost a server at
/// the same time do not come back at the same time.
fn pause(done: u32, random: u32) -> Duration {
    let most = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(done)).min(LONGEST_PAUSE);
    most / 2 + (most / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end_at_a_second() {
        let millis = |done, random| pause(done, random).as_millis();
        assert_eq!([millis(0, 0), millis(0, u32::MAX)], [100, 200]);
        assert_eq!([millis(1, 0), millis(1, u32::MAX)], [200, 400]);
        assert_eq!([millis(2, 0), millis(2, u32::MAX)], [400, 800]);
        for done in [3, 31, 32, u32::MAX] {
            assert_eq!([millis(done, 0), millis(done, u32::MAX)], [500, 1000], "{done}");
        }
    }
}
