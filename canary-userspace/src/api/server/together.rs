//! Answers that cost something and are the same for all: who asks while others
//! wait for one gets the same.

use std::{sync::Arc, time::Instant};

use hyper::body::Bytes;
use tokio::sync::Mutex;

use crate::api::request::Refusal;

/// One kind of answer. It is never older than the question: of any number who
/// ask at the same time the first has it made, the others share the next one.
#[derive(Clone, Debug, Default)]
pub(super) struct Together(Arc<Mutex<Option<Last>>>);

#[derive(Debug)]
struct Last {
    begun: Instant,
    text: Bytes,
}

impl Together {
    pub(super) async fn answer(
        &self,
        make: impl Future<Output = Result<Bytes, Refusal>>,
    ) -> Result<Bytes, Refusal> {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.begun >= asked) {
            return Ok(last.text.clone());
        }
        let begun = Instant::now();
        let text = make.await?;
        *last = Some(Last { begun, text: text.clone() });
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn many_who_ask_at_once_share_what_was_made_since() {
        let (together, made) = (Together::default(), AtomicU32::new(0));
        let one = async || {
            together
                .answer(async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let number = made.fetch_add(1, Ordering::Relaxed);
                    Ok(Bytes::from(number.to_string()))
                })
                .await
        };
        let (first, second, third, fourth) = tokio::join!(one(), one(), one(), one());
        assert_eq!(first, Ok(Bytes::from("0")));
        // Begun before these asked, so the first is not theirs.
        assert_eq!([&second, &third, &fourth], [&Ok(Bytes::from("1")); 3]);
        assert_eq!(one().await, Ok(Bytes::from("2")), "it is old by now");
        let refused = together.answer(async { Err(Refusal::busy("no")) }).await;
        assert!(refused.is_err());
        assert_eq!(one().await, Ok(Bytes::from("3")));
    }
}
