//! What the headers of a request ask for, and what the headers of an answer say.

use std::collections::BTreeMap;
use std::ops;
use std::time::{Duration, SystemTime};

use hyper::HeaderMap;
use hyper::header::{self, HeaderName, HeaderValue};
use s3s::dto::{ETag, ETagCondition, Range, Timestamp, TimestampFormat};
use s3s::{S3Error, S3Result, s3_error};

use super::digest;
use super::files::{ObjectMetadata, Precondition, Stat};

/// The headers that are kept with an object, besides `x-amz-meta-…`.
pub const KEPT: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];
/// What the names of the headers with checksums begin with.
pub const CHECKSUM: &str = "x-amz-checksum-";

/// How an object, or a part of it, is shown.
pub struct View {
    /// All headers but those of the length and the range.
    pub headers: HeaderMap,
    /// Which of its bytes.
    pub range: ops::Range<u64>,
    /// The value of `Content-Range`, for a part.
    pub content_range: Option<String>,
}

impl View {
    /// The object as a request asks for it, unless a precondition of the request fails.
    pub fn of(stat: &Stat, range: Option<Range>, request: &HeaderMap) -> S3Result<Self> {
        let tag = etag(stat)
            .to_http_header()
            .map_err(S3Error::internal_error)?;
        check(stat, request, "")?.map_err(|failed| failed.to_reader(&tag))?;
        let part = range.map(|range| range.check(stat.len)).transpose()?;

        let mut headers = stored(&stat.meta, false);
        if part.is_none() && request.contains_key("x-amz-checksum-mode") {
            headers.extend(stored(&stat.meta, true));
        }
        let mut time = Vec::new();
        let formatted = last_modified(stat).format(TimestampFormat::HttpDate, &mut time);
        formatted.map_err(S3Error::internal_error)?;
        let time = HeaderValue::try_from(time).map_err(S3Error::internal_error)?;
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::LAST_MODIFIED, time);
        headers.insert(header::ETAG, tag);
        let content_range =
            |part: &ops::Range<u64>| format!("bytes {}-{}/{}", part.start, part.end - 1, stat.len);
        let content_range = part.as_ref().map(content_range);
        Ok(Self {
            headers,
            range: part.unwrap_or(0..stat.len),
            content_range,
        })
    }

    /// The value of `Content-Length`.
    pub fn length(&self) -> Option<i64> {
        i64::try_from(self.range.end - self.range.start).ok()
    }
}

/// A precondition of a read that failed.
pub enum Failed {
    /// `If-Match` or `If-Unmodified-Since`.
    Precondition,
    /// `If-None-Match` or `If-Modified-Since`.
    NotModified,
}

impl Failed {
    fn to_reader(&self, tag: &HeaderValue) -> S3Error {
        match self {
            Self::Precondition => precondition_failed(),
            Self::NotModified => {
                let mut error = s3_error!(NotModified);
                error.set_headers(HeaderMap::from_iter([(header::ETAG, tag.clone())]));
                error
            }
        }
    }
}

/// The preconditions of a read, in headers that begin with `prefix` (RFC 9110, section 13).
pub fn check(stat: &Stat, headers: &HeaderMap, prefix: &str) -> S3Result<Result<(), Failed>> {
    let time = |name: &str| {
        let value = headers.get(format!("{prefix}{name}"))?.to_str().ok()?;
        Timestamp::parse(TimestampFormat::HttpDate, value).ok()
    };
    let is_this = |name: &str| -> S3Result<Option<bool>> {
        let condition = condition(headers, &format!("{prefix}{name}"))?;
        let tag = condition.map(|condition| condition.into_etag().map(ETag::into_value));
        Ok(tag.map(|tag| tag.is_none_or(|tag| tag == stat.meta.etag)))
    };
    let modified = last_modified(stat);
    // Beside a condition on the ETag, the one on the time counts for nothing.
    let unmodified = || time("if-unmodified-since").is_none_or(|time| modified <= time);
    if !is_this("if-match")?.unwrap_or_else(unmodified) {
        return Ok(Err(Failed::Precondition));
    }
    let unmodified = || time("if-modified-since").is_some_and(|time| modified <= time);
    if is_this("if-none-match")?.unwrap_or_else(unmodified) {
        return Ok(Err(Failed::NotModified));
    }
    Ok(Ok(()))
}

/// The precondition of a write.
pub fn rule(headers: &HeaderMap) -> S3Result<Precondition> {
    let matches = condition(headers, "if-match")?;
    match (matches, condition(headers, "if-none-match")?) {
        (None, None) => Ok(Precondition::Always),
        (None, Some(ETagCondition::Any)) => Ok(Precondition::Absent),
        (Some(ETagCondition::Any), None) => Ok(Precondition::Present),
        (Some(ETagCondition::ETag(tag)), None) => Ok(Precondition::Matches(tag.into_value())),
        (_, Some(_)) => Err(s3_error!(
            NotImplemented,
            "If-None-Match takes nothing but *"
        )),
    }
}

fn condition(headers: &HeaderMap, name: &str) -> S3Result<Option<ETagCondition>> {
    let parse = |value: &HeaderValue| ETagCondition::parse_http_header(value.as_bytes());
    let invalid = |error| s3_error!(error, InvalidArgument, "{name} is no ETag");
    headers.get(name).map(parse).transpose().map_err(invalid)
}

/// 412.
pub fn precondition_failed() -> S3Error {
    s3_error!(
        PreconditionFailed,
        "At least one of the preconditions did not hold"
    )
}

/// What is known of an object that is being put, once its bytes are found to be those that its sender meant.
pub fn verify(request: &HeaderMap, bytes: &[u8]) -> S3Result<ObjectMetadata> {
    if let Some(value) = request.get("content-md5") {
        compare("Content-MD5", value, &digest::md5_base64(bytes))?;
    }
    let sent = |name: &&&str| request.contains_key(format!("{CHECKSUM}{name}"));
    let sent: Vec<_> = digest::ALGORITHMS.iter().filter(sent).collect();
    let algorithm = match sent[..] {
        // S3 adds one of its own choice.
        [] => "crc64nvme",
        [algorithm] => algorithm,
        _ => return Err(s3_error!(InvalidRequest, "There is more than one checksum")),
    };
    let name = format!("{CHECKSUM}{algorithm}");
    let sum = digest::checksum(algorithm, bytes);
    if let Some(value) = request.get(&name) {
        compare(&name, value, &sum)?;
    }
    let mut headers = kept(request);
    headers.insert(name, sum);
    Ok(ObjectMetadata {
        etag: digest::md5_hex(bytes),
        headers,
    })
}

fn compare(name: &str, given: &HeaderValue, right: &str) -> S3Result {
    let given = given.to_str().unwrap_or_default();
    if given == right {
        Ok(())
    } else if digest::same_form(given, right) {
        Err(s3_error!(BadDigest, "{name} is not that of the body"))
    } else if name.starts_with(CHECKSUM) {
        Err(s3_error!(
            InvalidRequest,
            "Value for {name} header is invalid."
        ))
    } else {
        Err(s3_error!(InvalidDigest, "{name} is invalid"))
    }
}

/// The headers of a request that are kept with its object.
pub fn kept(request: &HeaderMap) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::from([("content-type".to_owned(), "binary/octet-stream".to_owned())]);
    for (name, value) in request {
        let name = name.as_str();
        if KEPT.contains(&name) || name.starts_with("x-amz-meta-") {
            kept.insert(
                name.to_owned(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            );
        }
    }
    // How the body travelled is not kept.
    if let Some(encoding) = kept.remove("content-encoding") {
        let codings = encoding.split(',').map(str::trim);
        let codings: Vec<_> = codings.filter(|coding| *coding != "aws-chunked").collect();
        if !codings.is_empty() {
            kept.insert("content-encoding".to_owned(), codings.join(", "));
        }
    }
    kept
}

/// The headers that come back with an object: its checksums, or all others.
pub fn stored(meta: &ObjectMetadata, checksums: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &meta.headers {
        if name.starts_with(CHECKSUM) == checksums
            && let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
        {
            headers.insert(name, value);
        }
    }
    if checksums {
        headers.insert(
            "x-amz-checksum-type",
            HeaderValue::from_static("FULL_OBJECT"),
        );
    }
    headers
}

/// The `ETag`.
pub fn etag(stat: &Stat) -> ETag {
    ETag::Strong(stat.meta.etag.clone())
}

/// The time of the last change, as S3 tells it.
pub fn last_modified(stat: &Stat) -> Timestamp {
    whole_second(stat.modified)
}

/// A time without the part of its second.
pub fn whole_second(time: SystemTime) -> Timestamp {
    let age = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(age.as_secs()))
}
