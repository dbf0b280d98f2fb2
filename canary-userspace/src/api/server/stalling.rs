//! A connection whose other end must read: one that takes nothing for too long
//! is over.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::caller::Place;

/// What is being sent must be taken whole within `limit`, from the moment that
/// the other end first keeps us waiting: also where it takes a byte now and
/// then.
#[derive(Debug)]
pub(super) struct Stalling<S> {
    stream: S,
    place: Place,
    limit: Duration,
    /// Runs while the other end keeps us waiting.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    pub(super) fn new(stream: S, place: Place, limit: Duration) -> Self {
        Self { stream, place, limit, deadline: None }
    }

    /// What a write came to; an error once the time is over.
    fn settle(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if wrote.is_ready() {
            // That it moves at all puts it behind those who wait for nothing.
            if self.deadline.is_some() {
                self.place.waits();
            }
            return wrote;
        }
        let limit = self.limit;
        if self.deadline.is_none() {
            self.place.waits();
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer was not read in time")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.settle(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.settle(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes once all it had is written.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.deadline.take().is_some() {
            self.place.sent();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::api::server::{
        caller::{Hall, Holder},
        seats::Limits,
    };

    const LIMIT: Duration = Duration::from_millis(300);

    fn place() -> Option<Place> {
        let hall = Hall::new(Limits { total: 1, each: 1 });
        hall.admit(Holder::User(0)).map(|(place, ..)| place)
    }

    async fn sends(
        bytes: usize,
        reads: impl AsyncFnOnce(tokio::io::DuplexStream),
    ) -> io::Result<()> {
        let (ours, theirs) = duplex(1024);
        let place = place().ok_or(io::ErrorKind::Other)?;
        let mut ours = Stalling::new(ours, place, LIMIT);
        let send = async {
            ours.write_all(&vec![0; bytes]).await?;
            ours.flush().await
        };
        let (sent, ()) = tokio::join!(send, reads(theirs));
        sent
    }

    #[tokio::test]
    async fn an_answer_that_is_read_arrives() {
        let sent = sends(100_000, async |mut theirs| {
            let mut all = vec![0; 100_000];
            assert!(theirs.read_exact(&mut all).await.is_ok());
        });
        assert!(sent.await.is_ok());
    }

    #[tokio::test]
    async fn one_that_nobody_reads_is_given_up() {
        let sent = sends(100_000, async |theirs| {
            tokio::time::sleep(2 * LIMIT).await;
            drop(theirs);
        });
        let error = sent.await.err().map(|error| error.kind());
        assert_eq!(error, Some(io::ErrorKind::TimedOut));
    }

    /// A byte now and then is no reading.
    #[tokio::test]
    async fn one_that_is_read_too_slowly_is_given_up() {
        let sent = sends(100_000, async |mut theirs| {
            while theirs.read_u8().await.is_ok() {
                tokio::time::sleep(LIMIT / 20).await;
            }
        });
        let error = tokio::time::timeout(10 * LIMIT, sent).await;
        // The reader goes on with what is under way; the writer has ended.
        assert!(!matches!(error, Ok(Ok(()))), "it was taken whole");
    }
}
