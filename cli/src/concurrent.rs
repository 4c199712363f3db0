//! Work on many items at the same time, and its end by the user.

use std::future::Future;

use tokio::task::{JoinError, JoinSet};

use crate::error::{Error, Result};

/// Runs `work` for each item, up to `limit` at the same time, on all threads. Ends at the first error; the rest of
/// the work is then cancelled.
pub async fn for_each<T, F>(
    items: impl IntoIterator<Item = T>,
    limit: usize,
    mut work: impl FnMut(T) -> F,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for item in items {
        if tasks.len() >= limit {
            tasks
                .join_next()
                .await
                .transpose()
                .map_err(panicked)?
                .transpose()?;
        }
        tasks.spawn(work(item));
    }
    while let Some(result) = tasks.join_next().await {
        result.map_err(panicked)??;
    }
    Ok(())
}

/// The error of a task that panicked, which is a bug.
#[allow(clippy::needless_pass_by_value, reason = "an argument of `map_err`")]
pub fn panicked(error: JoinError) -> Error {
    Error::new(format!("the program failed: {error}"))
}

/// Waits until the user or the system asks the program to end.
pub async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        let signals = (
            signal(SignalKind::terminate()),
            signal(SignalKind::hangup()),
        );
        if let (Ok(mut terminate), Ok(mut hangup)) = signals {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    // Without a handler, the program just ends.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
