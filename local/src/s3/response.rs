//! Response bodies that stall or break.

use std::error::Error;
use std::fmt;
use std::future::ready;

use futures_util::stream::{self, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};

/// The error that ends a connection without a response.
#[derive(Debug)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is closed on purpose")
    }
}

impl Error for Broken {}

/// The body of a response.
pub type ResponseBody = UnsyncBoxBody<Bytes, Broken>;

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
        Err(Broken)
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
    second: impl Future<Output = Result<Frame<Bytes>, Broken>> + Send + 'static,
) -> ResponseBody {
    let first = stream::once(ready(Ok(Frame::data(first))));
    StreamBody::new(first.chain(stream::once(second))).boxed_unsync()
}
