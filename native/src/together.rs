//! What is written to a connection at one time goes out together: one system call for the answers of several streams.
//!
//! HTTP/2 writes its frames one by one and flushes after each message. Here they are gathered while a connection has its turn, and `Turn`
//! sends them at the end of it.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::queue::locked;

/// Bytes that are gathered at most; a stream that takes no more holds its writers back.
const MOST: usize = 64 << 10;

/// A stream, and what is to be written to it.
pub struct Gathered<T> {
    stream: T,
    bytes: BytesMut,
    broken: bool,
    sent: u64,
}

impl<T> Gathered<T> {
    fn check(&self) -> io::Result<()> {
        if self.broken { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }

    /// Return how many bytes the stream has taken so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

impl<T: AsyncWrite + Unpin> Gathered<T> {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        let sent = ready!(self.poll_all(context));
        self.broken = sent.is_err();
        Poll::Ready(sent)
    }

    fn poll_all(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.bytes))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes.advance(sent);
            self.sent += sent as u64;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.bytes.len() < MOST { Poll::Ready(Ok(())) } else { self.poll_send(context) }
    }
}

/// A stream whose writes are sent at the end of a `Turn`.
pub struct Together<T>(Arc<Mutex<Gathered<T>>>);

/// The work on a connection; each time it was polled, what it has written is sent.
pub struct Turn<T, F> {
    pub gathered: Arc<Mutex<Gathered<T>>>,
    pub work: F,
}

impl<T> Together<T> {
    pub fn new(stream: T) -> Self {
        Self(Arc::new(Mutex::new(Gathered { stream, bytes: BytesMut::new(), broken: false, sent: 0 })))
    }

    /// Return what a `Turn` sends.
    pub fn gathered(&self) -> Arc<Mutex<Gathered<T>>> {
        self.0.clone()
    }
}

impl<T: AsyncWrite + Unpin, F: Future + Unpin> Future for Turn<T, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let done = Pin::new(&mut self.work).poll(context);
        let sent = locked(&self.gathered).poll_send(context);
        match (&done, sent) {
            (Poll::Pending, Poll::Ready(Err(_))) => Pin::new(&mut self.work).poll(context), // it meets the error itself
            _ => done,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Together<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut gathered = locked(&self.0);
        gathered.check()?;
        Pin::new(&mut gathered.stream).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Together<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>, context: &mut Context<'_>, data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = locked(&self.0);
        ready!(gathered.poll_room(context))?;
        let size: usize = data.iter().map(|part| part.len()).sum();
        if gathered.bytes.is_empty() && size > MOST {
            let sent = ready!(Pin::new(&mut gathered.stream).poll_write_vectored(context, data))?;
            gathered.sent += sent as u64;
            return Poll::Ready(Ok(sent));
        }
        let before = gathered.bytes.len();
        let mut room = MOST - before;
        for part in data {
            let taken = room.min(part.len());
            gathered.bytes.extend_from_slice(&part[..taken]);
            room -= taken;
        }
        Poll::Ready(Ok(size.min(MOST - before)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        locked(&self.0).poll_room(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = locked(&self.0);
        ready!(gathered.poll_send(context))?;
        Pin::new(&mut gathered.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn what_is_written_in_one_turn_is_sent_at_its_end() {
        let (near, mut far) = duplex(MOST);
        let mut stream = Together::new(near);
        let gathered = stream.gathered();
        stream.write_all(b"one ").await.unwrap();
        stream.write_all(b"two").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(locked(&gathered).bytes.len(), 7);
        Turn { gathered, work: std::future::ready(()) }.await;
        let mut arrived = [0; 7];
        far.read_exact(&mut arrived).await.unwrap();
        assert_eq!(&arrived, b"one two");
    }

    #[tokio::test]
    async fn no_more_is_gathered_than_is_said() {
        let (near, _far) = duplex(1);
        let mut stream = Together::new(near);
        stream.write_all(b"some").await.unwrap();
        assert_eq!(stream.write(&vec![0; 4 * MOST]).await.unwrap(), MOST - 4);
        assert_eq!(locked(&stream.gathered()).bytes.len(), MOST);
    }

    #[tokio::test]
    async fn everything_arrives_in_order_however_much_it_is() {
        let (near, mut far) = duplex(1000);
        let sent: Vec<u8> = (0..5 * MOST).map(|n| (n % 251) as u8).collect();
        let mut stream = Together::new(near);
        let expected = sent.clone();
        let reading = tokio::spawn(async move {
            let mut arrived = Vec::new();
            far.read_to_end(&mut arrived).await.unwrap();
            arrived
        });
        for part in sent.chunks(777) {
            stream.write_all(part).await.unwrap();
        }
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        drop(stream);
        assert_eq!(reading.await.unwrap(), [expected.clone(), expected].concat());
    }

    #[tokio::test]
    async fn a_stream_that_breaks_is_known_to_whoever_reads() {
        let (near, far) = duplex(1000);
        let mut stream = Together::new(near);
        stream.write_all(b"lost").await.unwrap();
        drop(far);
        let gathered = stream.gathered();
        let reading = Box::pin(async move { stream.read_u8().await });
        assert!(Turn { gathered, work: reading }.await.is_err());
    }
}
