//! Response bodies that stall or break.

use std::future::ready;
use std::io;

use futures_util::stream::{self, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};

/// The body of a response. An error ends the connection.
pub type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;

/// The error that ends a connection on purpose.
pub fn connection_closed() -> io::Error {
    io::Error::other("the connection is closed on purpose")
}

/// All bytes.
pub fn whole(bytes: Bytes) -> ResponseBody {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// The first bytes; then the connection breaks.
pub fn broken(bytes: &Bytes, after: usize) -> ResponseBody {
    let first = bytes.slice(..after.min(bytes.len()));
    let end = async {
        // The server sends its buffer when the body is pending.
        tokio::task::yield_now().await;
        Err(connection_closed())
    };
    two_parts(first, end)
}

/// The first bytes, and the others after `wait`.
pub fn stalled(
    bytes: &Bytes,
    after: usize,
    wait: impl Future<Output = ()> + Send + 'static,
) -> ResponseBody {
    let mut first = bytes.clone();
    let rest = first.split_off(after.min(bytes.len()));
    two_parts(first, async {
        wait.await;
        Ok(Frame::data(rest))
    })
}

fn two_parts(
    first: Bytes,
    second: impl Future<Output = io::Result<Frame<Bytes>>> + Send + 'static,
) -> ResponseBody {
    let first = stream::once(ready(Ok(Frame::data(first))));
    StreamBody::new(first.chain(stream::once(second))).boxed_unsync()
}
