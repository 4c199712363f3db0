//! Parses trigger payloads into draft ids. Fields that do not affect the result are skipped without
//! building their values, so that memory does not depend on the input.

use std::collections::BTreeMap;
use std::fmt;

use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::{self, Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::config::RequestConfig;
use crate::draft::keys::DraftPrefix;
use crate::draft::{DraftId, InvalidDraftId};
use crate::error::{BoxError, Error, redact_json_error};

/// Parses events, and decides which objects are documents of drafts.
#[derive(Debug)]
pub(super) struct EventParser {
    bucket: String,
    prefix: DraftPrefix,
    allowed_hosts: Vec<String>,
}

/// A parsed event.
#[derive(Debug)]
pub(super) enum ParsedEvent {
    /// A direct invocation.
    Direct(DirectRequest),
    /// An event of S3, EventBridge or SNS.
    Notification(EventContent),
    /// A batch of SQS.
    Batch(Vec<Message>),
}

/// The draft of a direct invocation.
#[derive(Debug)]
pub(super) struct DirectRequest {
    /// The field that named the draft: `draft_url` or `draft_id`.
    pub field: &'static str,
    /// The value of the field.
    pub value: String,
    /// The id of the draft.
    pub id: DraftId,
}

/// A message of an SQS batch.
#[derive(Debug)]
pub(super) struct Message {
    /// The `messageId`, or `None` if it cannot be read.
    pub id: Option<String>,
    /// The content of the message.
    pub content: EventContent,
}

/// The drafts in an event or message, and the records that are not saved.
#[derive(Debug, Default)]
pub(super) struct EventContent {
    /// Drafts to save, each once.
    pub drafts: BTreeMap<DraftId, Origin>,
    /// Records that do not require a save.
    pub skipped: Vec<SkippedRecord>,
    /// The first record that could not be parsed. Others are not kept: a payload of 6 MB may have
    /// millions of them.
    pub error: Option<Error>,
}

/// The reason to save a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// Its document was written. It may have been deleted since.
    Object,
    /// The event names it.
    Request,
}

/// A record that does not require a save.
#[derive(Debug)]
pub(super) struct SkippedRecord {
    /// The reason, for the log.
    pub reason: &'static str,
    /// The key of the object, if the record has one.
    pub key: Option<String>,
}

/// Maximum nesting of messages: SQS may deliver a message of SNS that contains a notification.
const MAX_ENVELOPES: u8 = 2;

/// Maximum number of records of one list: the largest batch of SQS ("Using Lambda with Amazon SQS",
/// AWS Lambda Developer Guide).
const MAX_RECORDS: usize = 10_000;

/// Reads the fields of the JSON object `text` that `T` has. `null` counts as missing.
pub(super) fn read_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, BoxError> {
    // A derived implementation also accepts a list, with the values of the fields in order.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err("the text is not a JSON object".into());
    }
    serde_json::from_slice(text).map_err(|error| redact_json_error(&error))
}

/// Returns the string in `value`, or `None` if it is missing, of another type, or not valid Unicode.
pub(super) fn as_string(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}

/// Creates the error for an event, record or message that could not be parsed.
pub(super) fn invalid_event(cause: impl Into<BoxError>) -> Error {
    Error::invalid_request("The event is not one that this function knows", cause)
}

/// Reads the object in `value`; `names` are the fields that it must have for the error.
fn object<'a, T: Deserialize<'a>>(value: Option<&'a RawValue>, names: &str) -> Result<T, Error> {
    let object = value.and_then(|value| read_object(value.get().as_bytes()).ok());
    object.ok_or_else(|| invalid_event(format!("the event must have {names}")))
}

/// Reads the string in `value`; `name` is the name of the field for the error.
fn string(value: Option<&RawValue>, name: &str) -> Result<String, Error> {
    as_string(value).ok_or_else(|| invalid_event(format!("{name} must be a string")))
}

/// The fields that tell events apart.
#[derive(Deserialize)]
struct Envelope<'a> {
    /// S3, SNS and SQS.
    #[serde(borrow, rename = "Records")]
    records: Option<&'a RawValue>,
    /// EventBridge.
    #[serde(borrow, rename = "detail-type")]
    detail_type: Option<&'a RawValue>,
    #[serde(borrow)]
    source: Option<&'a RawValue>,
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
    /// SNS messages that are delivered to SQS.
    #[serde(borrow, rename = "Message")]
    message: Option<&'a RawValue>,
    /// The test event of S3.
    #[serde(borrow, rename = "Event")]
    event: Option<&'a RawValue>,
    /// HTTP.
    #[serde(borrow, rename = "requestContext")]
    request_context: Option<&'a RawValue>,
    /// Direct invocations.
    #[serde(borrow)]
    draft_url: Option<&'a RawValue>,
    #[serde(borrow)]
    draft_id: Option<&'a RawValue>,
}

/// A record of S3, SNS or SQS.
#[derive(Default, Deserialize)]
struct Record<'a> {
    /// The service that the record is from.
    #[serde(borrow, rename = "eventSource", alias = "EventSource")]
    source: Option<&'a RawValue>,
    /// SNS.
    #[serde(borrow, rename = "Sns")]
    sns: Option<&'a RawValue>,
    /// SQS.
    #[serde(borrow, rename = "messageId")]
    message_id: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    /// S3.
    #[serde(borrow, rename = "eventName")]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    s3: Option<&'a RawValue>,
}

/// An object, in `s3` of a notification and in `detail` of EventBridge.
#[derive(Deserialize)]
struct Object {
    bucket: Bucket,
    object: Key,
}

#[derive(Deserialize)]
struct Bucket {
    name: String,
}

#[derive(Deserialize)]
struct Key {
    key: String,
}

#[derive(Deserialize)]
struct Sns {
    #[serde(rename = "Message")]
    message: String,
}

impl<'a> Envelope<'a> {
    fn parse(text: &'a str) -> Result<Self, Error> {
        read_object(text.as_bytes()).map_err(invalid_event)
    }

    fn records(&self) -> Result<Vec<&'a RawValue>, Error> {
        let Some(records) = self.records else {
            return Ok(Vec::new());
        };
        let mut records = serde_json::Deserializer::from_str(records.get());
        records.deserialize_seq(Records).map_err(|_| {
            invalid_event(format!(
                "Records must be a list of at most {MAX_RECORDS} records"
            ))
        })
    }
}

impl<'a> Record<'a> {
    fn parse(record: &'a RawValue) -> Result<Self, Error> {
        read_object(record.get().as_bytes()).map_err(invalid_event)
    }
}

/// Reads a list of at most [`MAX_RECORDS`] records.
struct Records;

impl<'de> Visitor<'de> for Records {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut records = Vec::new();
        while let Some(record) = list.next_element()? {
            if records.len() == MAX_RECORDS {
                return Err(de::Error::custom("too many records"));
            }
            records.push(record);
        }
        Ok(records)
    }
}

fn is_sqs(record: &RawValue) -> bool {
    let source = Record::parse(record).and_then(|record| string(record.source, "eventSource"));
    source.is_ok_and(|source| source == "aws:sqs")
}

impl EventParser {
    /// Creates a parser for the drafts in `config`.
    pub(super) fn new(config: RequestConfig) -> Self {
        Self {
            bucket: config.draft_bucket,
            prefix: config.draft_prefix,
            allowed_hosts: config.draft_url_hosts,
        }
    }

    /// Parses the payload of an invocation.
    ///
    /// # Errors
    ///
    /// Returns `InvalidRequest` if the payload as a whole is not a known event. Errors of single
    /// records and messages are part of the result.
    pub(super) fn parse(&self, payload: &str) -> Result<ParsedEvent, Error> {
        let envelope = Envelope::parse(payload)?;
        if let Some(request) = self.direct_request(&envelope) {
            return request.map(ParsedEvent::Direct);
        }
        let records = envelope.records()?;
        if records.iter().any(|record| is_sqs(record)) {
            let messages = records.into_iter().map(|record| self.message(record));
            return Ok(ParsedEvent::Batch(messages.collect()));
        }
        let content = self.notification(&envelope, 0)?;
        Ok(ParsedEvent::Notification(content))
    }

    fn message(&self, record: &RawValue) -> Message {
        let record = Record::parse(record).unwrap_or_default();
        let content = string(record.body, "the body of a message")
            .and_then(|body| self.content(&body, 0))
            .unwrap_or_else(EventContent::error);
        Message {
            id: as_string(record.message_id),
            content,
        }
    }

    /// Parses the text of a message of SQS or SNS.
    fn content(&self, text: &str, envelopes: u8) -> Result<EventContent, Error> {
        let envelope = Envelope::parse(text)?;
        match self.direct_request(&envelope) {
            Some(request) => Ok(EventContent::draft(request?.id, Origin::Request)),
            None => self.notification(&envelope, envelopes),
        }
    }

    /// Parses an event of S3, EventBridge or SNS; `envelopes` is the number of messages around it.
    fn notification(&self, envelope: &Envelope<'_>, envelopes: u8) -> Result<EventContent, Error> {
        if envelopes > MAX_ENVELOPES {
            return Err(invalid_event("the messages are nested too deeply"));
        }
        if envelope.request_context.is_some() {
            return Err(invalid_event("the HTTP event has no valid method"));
        }
        if envelope.detail_type.is_some() {
            return self.event_bridge(envelope);
        }
        if envelope.message.is_some() {
            let message = string(envelope.message, "Message")?;
            return self.content(&message, envelopes + 1);
        }
        if envelope.event.is_some() {
            return match string(envelope.event, "Event")?.as_str() {
                "s3:TestEvent" => Ok(EventContent::skipped(
                    "the event is the test event of S3",
                    None,
                )),
                _ => Err(invalid_event("Event must be s3:TestEvent")),
            };
        }
        let records = envelope.records()?;
        if records.is_empty() {
            return Err(invalid_event(
                "the payload has none of the fields of a known event",
            ));
        }
        let mut content = EventContent::default();
        for record in records {
            let record = self.record(record, envelopes);
            content.append(record.unwrap_or_else(EventContent::error));
        }
        Ok(content)
    }

    /// Parses a record of S3 or SNS.
    fn record(&self, record: &RawValue, envelopes: u8) -> Result<EventContent, Error> {
        let record = Record::parse(record)?;
        let source = string(record.source, "eventSource")?;
        if source == "aws:sns" {
            let sns: Sns = object(record.sns, "Sns.Message")?;
            return self.content(&sns.message, envelopes + 1);
        }
        // Other stores use names of their own, such as `minio:s3`.
        if !source.ends_with(":s3") {
            return Err(invalid_event(
                "eventSource must be aws:s3, aws:sns or aws:sqs",
            ));
        }
        let s3: Object = object(record.s3, "s3.bucket.name and s3.object.key")?;
        let name = string(record.name, "eventName")?;
        // Keys are URL-encoded ("Event message structure", Amazon S3 User Guide).
        let key = s3.object.key.replace('+', " ");
        let key = percent_decode_str(&key)
            .decode_utf8()
            .map_err(|_| invalid_event("s3.object.key must be URL-encoded UTF-8"))?;
        let is_created =
            name.starts_with("ObjectCreated:") || name.starts_with("s3:ObjectCreated:");
        Ok(self.object_event(is_created, &s3.bucket.name, &key))
    }

    /// Parses an EventBridge event ("EventBridge event message structure", Amazon S3 User Guide,
    /// and custom events with a `draft_url` or `draft_id` in `detail`).
    fn event_bridge(&self, event: &Envelope<'_>) -> Result<EventContent, Error> {
        if string(event.source, "source")? == "aws.s3" {
            // Here the key is not URL-encoded.
            let detail: Object = object(event.detail, "detail.bucket.name and detail.object.key")?;
            let is_created = string(event.detail_type, "detail-type")? == "Object Created";
            return Ok(self.object_event(is_created, &detail.bucket.name, &detail.object.key));
        }
        let request = self
            .direct_request(&object(event.detail, "an object in detail")?)
            .ok_or_else(|| invalid_event("detail must have a draft_url or draft_id"))?;
        Ok(EventContent::draft(request?.id, Origin::Request))
    }

    /// Returns the draft whose document was created, or the reason to skip the object.
    fn object_event(&self, is_created: bool, bucket: &str, key: &str) -> EventContent {
        let skipped = |reason| EventContent::skipped(reason, Some(key.to_owned()));
        if !is_created {
            return skipped("the object was not created");
        }
        if bucket != self.bucket {
            return skipped("the object is in another bucket");
        }
        match self.prefix.parse_document(key) {
            Some(id) => EventContent::draft(id, Origin::Object),
            None => skipped("the object is not the document of a draft"),
        }
    }

    /// Parses a direct invocation; `None` for any other event.
    fn direct_request(&self, envelope: &Envelope<'_>) -> Option<Result<DirectRequest, Error>> {
        let is_service_event = envelope.records.is_some()
            || envelope.detail_type.is_some()
            || envelope.request_context.is_some();
        if is_service_event {
            return None;
        }
        match (envelope.draft_url, envelope.draft_id) {
            (None, None) => None,
            (Some(url), None) => Some(self.draft_url(url)),
            (None, Some(id)) => Some(draft_id(id)),
            (Some(_), Some(_)) => Some(Err(Error::invalid_request(
                "Only one of draft_url and draft_id is allowed",
                "the event has both",
            ))),
        }
    }

    fn draft_url(&self, value: &RawValue) -> Result<DirectRequest, Error> {
        let invalid = |cause| Error::invalid_request("Invalid draft_url format", cause);
        let value =
            as_string(Some(value)).ok_or_else(|| invalid("draft_url must be a string".into()))?;
        let id = DraftId::from_url(&value, &self.allowed_hosts).map_err(invalid)?;
        Ok(DirectRequest {
            field: "draft_url",
            value,
            id,
        })
    }
}

fn draft_id(value: &RawValue) -> Result<DirectRequest, Error> {
    let invalid = |cause: BoxError| Error::invalid_request("Invalid draft_id format", cause);
    let value =
        as_string(Some(value)).ok_or_else(|| invalid("draft_id must be a string".into()))?;
    let id = value
        .parse()
        .map_err(|error: InvalidDraftId| invalid(error.into()))?;
    Ok(DirectRequest {
        field: "draft_id",
        value,
        id,
    })
}

/// Adds `drafts` to `all`. A draft that both have keeps the greater origin.
pub(super) fn add_drafts(
    all: &mut BTreeMap<DraftId, Origin>,
    drafts: impl IntoIterator<Item = (DraftId, Origin)>,
) {
    for (id, origin) in drafts {
        let known = all.entry(id).or_insert(origin);
        *known = origin.max(*known);
    }
}

impl EventContent {
    fn draft(id: DraftId, origin: Origin) -> Self {
        Self {
            drafts: BTreeMap::from([(id, origin)]),
            ..Self::default()
        }
    }

    fn skipped(reason: &'static str, key: Option<String>) -> Self {
        Self {
            skipped: vec![SkippedRecord { reason, key }],
            ..Self::default()
        }
    }

    fn error(error: Error) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }

    fn append(&mut self, mut other: Self) {
        add_drafts(&mut self.drafts, other.drafts);
        self.skipped.append(&mut other.skipped);
        self.error = self.error.take().or(other.error);
    }
}
