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
    time::Sleep,
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
        if self.deadline.is_none() {
            self.place.waits();
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
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

    async fn place() -> Option<Place> {
        let hall = Hall::new(Limits { total: 1, each: 1 });
        hall.admit(Holder::User(0)).await.map(|(place, ..)| place)
    }

    async fn sends(
        bytes: usize,
        reads: impl Future<Output = ()> + Send + 'static,
        ours: tokio::io::DuplexStream,
    ) -> Option<io::Result<()>> {
        let mut ours = Stalling::new(ours, place().await?, LIMIT);
        let reader = tokio::spawn(reads);
        let sent = tokio::time::timeout(5 * LIMIT, async {
            ours.write_all(&vec![0; bytes]).await?;
            ours.flush().await
        });
        let sent = sent.await.ok();
        reader.abort();
        sent
    }

    #[tokio::test]
    async fn an_answer_that_is_read_arrives() {
        let (ours, mut theirs) = duplex(1024);
        let reads = async move {
            let mut all = vec![0; 100_000];
            theirs.read_exact(&mut all).await.ok();
        };
        assert!(matches!(sends(100_000, reads, ours).await, Some(Ok(()))));
    }

    fn kind(sent: Option<io::Result<()>>) -> Option<io::ErrorKind> {
        sent?.err().map(|error| error.kind())
    }

    #[tokio::test]
    async fn one_that_nobody_reads_is_given_up() {
        let (ours, theirs) = duplex(1024);
        let reads = async move {
            let _kept = theirs;
            std::future::pending::<()>().await;
        };
        assert_eq!(kind(sends(100_000, reads, ours).await), Some(io::ErrorKind::TimedOut));
    }

    /// A byte now and then is no reading.
    #[tokio::test]
    async fn one_that_is_read_too_slowly_is_given_up() {
        let (ours, mut theirs) = duplex(1024);
        let reads = async move {
            while theirs.read_u8().await.is_ok() {
                tokio::time::sleep(LIMIT / 20).await;
            }
        };
        assert_eq!(kind(sends(100_000, reads, ours).await), Some(io::ErrorKind::TimedOut));
    }
}
