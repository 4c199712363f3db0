//! `drafts link`.

use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;
use jiff::{Span, SpanRelativeTo, Timestamp, Unit};
use save_draft::draft::DraftId;
use save_draft::error::chain;
use serde::Serialize;

use super::Context;
use crate::contents::Contents;
use crate::error::{Error, Outcome, Result};
use crate::history::History;
use crate::output::printable;
use crate::store::{Bucket, CredentialsEnd};
use crate::values;

/// Print links from which anyone can download a version
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Prints one link for the document and one for each file. Whoever has a link can read the object \
                  until the link expires.\n\nExample:\n  drafts link 2025092811473036584258 latest --expires 12h"
)]
pub struct Args {
    /// Id or URL of the draft
    #[arg(value_parser = values::draft_id)]
    id: DraftId,
    /// Name of the version, a beginning of it, or latest
    #[arg(default_value = "latest")]
    version: String,
    /// Time until the links expire, like 30m, 12h or 7d, at most 7 days
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = expires)]
    expires: Duration,
}

/// The longest time for which a link can be valid ("Sharing objects with presigned URLs", Amazon S3 User Guide).
const MAX_EXPIRES: Duration = Duration::from_hours(7 * 24);

#[derive(Serialize)]
struct Links<'a> {
    version: &'a str,
    expires_at: Timestamp,
    objects: Vec<Link>,
}

#[derive(Serialize)]
struct Link {
    path: String,
    bytes: u64,
    url: String,
}

/// Runs the command.
pub async fn run(context: &Context, args: Args) -> Result<Outcome> {
    let store = &context.store;
    let history = History::read(store, &args.id).await?;
    let version = history.find(&args.version)?;
    let files = Contents::read_files(store, &args.id, version).await?;
    let now = Timestamp::now();
    let mut expires_at = now + args.expires;
    match store.credentials_end().await? {
        CredentialsEnd::Never => {}
        CredentialsEnd::At(end) if end >= expires_at => {}
        CredentialsEnd::At(end) => {
            expires_at = end;
            let end = context.output.time(end);
            let text = format!("the credentials, and so the links, expire at {end}");
            context.output.warn(&text);
        }
        CredentialsEnd::Unknown => {
            let text = "the credentials are temporary: the links expire with them";
            context.output.warn(text);
        }
    }
    let config = PresigningConfig::expires_in(args.expires);
    let config = config.map_err(|error| Error::new(chain(&error)))?;
    let document = version.document_name.as_str().to_owned();
    let document = (
        document,
        version.document.size,
        version.document.key.clone(),
    );
    let files = files.into_iter().map(|file| {
        let key = file.key(&args.id);
        (file.path, file.size, key)
    });
    let mut links = Vec::new();
    for (path, bytes, key) in std::iter::once(document).chain(files) {
        let url = store.presigned(Bucket::Saved, &key, config.clone()).await?;
        links.push(Link { path, bytes, url });
    }
    if context.output.is_json() {
        let version = version.name.as_str();
        context.output.json(&Links {
            version,
            expires_at,
            objects: links,
        })?;
        return Ok(Outcome::Success);
    }
    let lines = links.iter();
    let lines = lines.map(|link| format!("{}\n  {}\n", printable(&link.path), link.url));
    context.output.print(&lines.collect::<String>())?;
    let expires_at = context.output.time(expires_at);
    context.output.note(&format!("valid until {expires_at}"));
    Ok(Outcome::Success)
}

/// Parses the time for which a link is valid.
fn expires(text: &str) -> std::result::Result<Duration, String> {
    let span: Span = text.parse().map_err(|_| problem())?;
    let seconds = span.total((Unit::Second, SpanRelativeTo::days_are_24_hours()));
    let time = Duration::try_from_secs_f64(seconds.map_err(|_| problem())?);
    let time = time.map_err(|_| problem())?;
    if time < Duration::from_secs(1) || time > MAX_EXPIRES {
        return Err(problem());
    }
    Ok(time)
}

fn problem() -> String {
    "must be a time between 1s and 7d, like 30m or 12h".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_times_up_to_seven_days() {
        for (text, seconds) in [
            ("1s", 1),
            ("30m", 1800),
            ("1h 30m", 5400),
            ("12h", 43_200),
            ("7d", 604_800),
        ] {
            assert_eq!(expires(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "0s", "-1h", "60", "8d", "169h", "soon", "1mo"] {
            assert!(expires(text).is_err(), "{text}");
        }
    }
}
