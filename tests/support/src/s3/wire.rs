//! Connections and bodies that can break.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What ends a connection without an answer.
#[derive(Debug)]
pub struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is cut on purpose")
    }
}

impl std::error::Error for Broken {}

/// A connection that is reset, and not closed, when `reset` is set.
pub struct Socket {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Socket {
    /// Wraps an accepted connection.
    pub fn new(stream: TcpStream, reset: Arc<AtomicBool>) -> io::Result<Self> {
        // Without it, an answer in two pieces waits for the client's delayed acknowledgement, 40 ms on Linux.
        stream.set_nodelay(true)?;
        Ok(Self { stream, reset })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of an answer.
pub struct Reply {
    /// The length that the head tells, in bytes.
    length: u64,
    next: Bytes,
    rest: Rest,
}

enum Rest {
    Nothing,
    Waits(Pin<Box<dyn Future<Output = ()> + Send>>, Bytes),
    /// The connection breaks, once what came before has been passed on.
    Breaks {
        passed_on: bool,
    },
}

impl Reply {
    /// All of these bytes.
    pub fn whole(bytes: Bytes) -> Self {
        Self {
            length: bytes.len() as u64,
            next: bytes,
            rest: Rest::Nothing,
        }
    }

    /// The first of these bytes, then the connection breaks.
    pub fn broken(bytes: &Bytes, after: usize) -> Self {
        let next = bytes.slice(..after.min(bytes.len()));
        Self {
            length: bytes.len() as u64,
            next,
            rest: Rest::Breaks { passed_on: false },
        }
    }

    /// The first of these bytes, and the others after `wait`.
    pub fn stalled(
        bytes: &Bytes,
        after: usize,
        wait: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let mut next = bytes.clone();
        let rest = next.split_off(after.min(bytes.len()));
        Self {
            length: bytes.len() as u64,
            next,
            rest: Rest::Waits(Box::pin(wait), rest),
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            if !self.next.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.next)))));
            }
            match &mut self.rest {
                Rest::Nothing => return Poll::Ready(None),
                Rest::Waits(wait, _) => {
                    ready!(wait.as_mut().poll(cx));
                    let Rest::Waits(_, bytes) = std::mem::replace(&mut self.rest, Rest::Nothing)
                    else {
                        continue;
                    };
                    self.next = bytes;
                }
                Rest::Breaks { passed_on: true } => return Poll::Ready(Some(Err(Broken))),
                Rest::Breaks { passed_on } => {
                    // The server sends what it has whenever there is no more for now.
                    *passed_on = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_empty() && matches!(self.rest, Rest::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
